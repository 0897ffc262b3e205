"""What Streamlit runs for each session and each click: the navigation and the page chosen."""

from __future__ import annotations

import streamlit as st

from desk.app.pages import compare, compress, datasets_and_runs, identify


def main() -> None:
    """Show the page that the reader has chosen."""
    st.set_page_config(page_title="Which codec?", layout="wide")
    pages = [
        st.Page(identify.show, title="Identify", url_path="identify", default=True),
        st.Page(compress.show, title="Compress", url_path="compress"),
        st.Page(compare.show, title="Compare", url_path="compare"),
        st.Page(datasets_and_runs.show, title="Datasets and runs", url_path="datasets-and-runs"),
    ]
    st.navigation(pages).run()


if __name__ == "__main__":
    main()
