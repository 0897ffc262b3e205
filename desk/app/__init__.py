"""The web app: pages in the browser for what the command line does.

The modules here are plain functions without Streamlit, except `start`, `page` and `pages`.
"""
