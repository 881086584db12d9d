"""A web page to try a memory: draw a character, name it, draw it again.

`drawing` converts pen strokes to what the shipped encoder was trained on; `unknown` sets the
threshold for an unknown drawing; `session` holds every action, without a page; `page` answers a
browser's requests and `server` serves it on this computer, by Starlette and uvicorn; `page.html`,
`page.css` and `page.js` are the page. It needs no network.
"""
