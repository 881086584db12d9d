"""Headless Chromium as Debian packages it, and drawing in it."""

import json
import shutil
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from rarememory.play.server import Server
from rarememory.play.session import Session

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
# Chromium itself sends no requests, so that every request seen is the page's.
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--force-device-scale-factor=1",
)


@contextmanager
def serving(file):
    """A server of a session with this file, on any free port."""
    server = Server(Session(Path(file)))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.close()


@contextmanager
def chromium(profile):
    """A Selenium driver of Chromium with a new profile in this folder."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def draw(driver, strokes, kind="mouse"):
    """Draw on the paper with a mouse, a pen or a finger ("touch")."""
    from selenium.webdriver.common.action_chains import ActionBuilder
    from selenium.webdriver.common.actions.pointer_input import PointerInput

    paper = driver.find_element("id", "paper")
    box = paper.rect
    side = min(box["width"], box["height"])
    scroll = driver.execute_script("return [scrollX, scrollY]")
    left = box["x"] + (box["width"] - side) / 2 - scroll[0]
    top = box["y"] + (box["height"] - side) / 2 - scroll[1]
    for stroke in strokes:
        builder = ActionBuilder(driver, mouse=PointerInput(kind, kind), duration=1)
        pointer = builder.pointer_action
        points = [(round(left + x * side / 256), round(top + y * side / 256)) for x, y in stroke]
        pointer.move_to_location(*points[0]).pointer_down()
        for x, y in points[1:]:
            pointer.move_to_location(x, y)
        pointer.pointer_up()
        builder.perform()


def requested_urls(driver):
    """The URLs that the page has requested since the last call, without Chromium's own."""
    messages = [json.loads(one["message"])["message"] for one in driver.get_log("performance")]
    urls = {
        one["params"]["request"]["url"]
        for one in messages
        if one["method"] == "Network.requestWillBeSent"
    }
    return {url for url in urls if not url.startswith(("chrome:", "data:"))}
