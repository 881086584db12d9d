"""A page to try a memory by hand: draw a character, name it, draw it again.

Each idea has its file. `drawing` makes of pen strokes what the shipped encoder sees; `unknown` says
how like a remembered drawing one must be; `session` is everything that can be done, without a page;
`server` gives it to a browser on this machine, and `page.html`, `page.css` and `page.js` are what
is seen there. Nothing is needed but the package itself; nothing comes from a network or goes there.
"""
