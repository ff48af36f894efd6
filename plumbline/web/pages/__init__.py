"""One file a page; each has a `router`, and `plumbline.web.app` puts them together."""
