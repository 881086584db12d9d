"""A web page to try a memory: draw a character, name it, draw it again.

`drawing` converts pen strokes to what the shipped encoder was trained on; `unknown` sets the
threshold for an unknown drawing; `session` holds every action, without a page; `server` serves them
to a browser on this computer, and `page.html`, `page.css` and `page.js` are the page. It needs no
other package and no network.
"""
