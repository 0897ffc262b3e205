"""The analyst's desk: examining a picture file, reporting on it, keeping a log of a case."""
