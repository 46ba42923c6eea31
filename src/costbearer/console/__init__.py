"""The console: administration and reports over HTTP. An ordinary FastAPI application, not on the path of a call."""
