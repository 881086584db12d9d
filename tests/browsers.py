"""Chromium without a window, as Debian has it, and a hand to draw in it with."""

import json
import shutil
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from rarememory.play.server import Server
from rarememory.play.session import Session

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
# It asks nobody for anything, so that whatever it asks for is the page's doing.
QUIET = (
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
    """The page of a session with this file, on any free port."""
    server = Server(Session(Path(file)))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def chromium(profile):
    """A driver of Chromium, with a new profile in this folder."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (*QUIET, f"--user-data-dir={profile}"):
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
        places = [(round(left + x * side / 256), round(top + y * side / 256)) for x, y in stroke]
        pointer.move_to_location(*places[0]).pointer_down()
        for x, y in places[1:]:
            pointer.move_to_location(x, y)
        pointer.pointer_up()
        builder.perform()


def asked_for(driver):
    """Every address that the page has asked for; what Chromium draws itself with is its own."""
    messages = [json.loads(one["message"])["message"] for one in driver.get_log("performance")]
    asked = {
        one["params"]["request"]["url"]
        for one in messages
        if one["method"] == "Network.requestWillBeSent"
    }
    return {url for url in asked if not url.startswith(("chrome:", "data:"))}
