"""The page of `rarememory play` in Chromium."""

import chromium
import pytest
from chromium import draw, requested_urls
from drawings import as_path, character, scribble

pytest.importorskip("selenium", reason="Selenium is not installed")

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

pytestmark = [
    pytest.mark.skipif(not chromium.CHROMIUM, reason="there is no chromium"),
    pytest.mark.skipif(not chromium.DRIVER, reason="there is no chromedriver"),
]
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with chromium.chromium(tmp_path_factory.mktemp("profile")) as driver:
        driver.set_window_size(1000, 1000)
        yield driver


class Page:
    """The page, and what a user does on it."""

    def __init__(self, driver, url):
        self.driver = driver
        driver.get(url)
        self.wait_for("lead", "It knows nothing yet.")

    def text(self, where):
        return self.driver.find_element(By.ID, where).text

    def wait_for(self, where, text):
        WebDriverWait(self.driver, 120, 0.05).until(
            lambda _: text in self.text(where), f"{text!r} in {where}"
        )

    def click(self, where):
        self.driver.find_element(By.ID, where).click()

    def name(self, name):
        self.driver.find_element(By.ID, "name").send_keys(name + Keys.ENTER)

    def recognises(self, answer, strokes, kind="mouse"):
        draw(self.driver, strokes, kind)
        self.wait_for("lead", "This is")
        self.wait_for("answer", answer)

    def learn(self, name, seed=0):
        draw(self.driver, character(name, seed))
        self.name(name)
        self.wait_for("lead", "Learnt")
        self.wait_for("answer", name)

    def all(self, css):
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def each(self, css, what):
        """This of all elements, read at once: the page may draw them anew between two questions."""
        script = f"return [...document.querySelectorAll(arguments[0])].map(one => one.{what})"
        return self.driver.execute_script(script, css)

    @property
    def known(self):
        return self.each("#classes .label", "innerText.trim()")

    @property
    def errors(self):
        """Errors that the browser logged, without refused requests."""
        logged = [one["message"] for one in self.driver.get_log("browser")]
        return [one for one in logged if "status of 400" not in one]


@pytest.fixture
def page(driver, tmp_path):
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    with chromium.serving(tmp_path / "drawings.safetensors") as server:
        requested_urls(driver)
        page = Page(driver, server.url)
        page.server, page.file = server, server.session.file
        yield page
        assert page.errors == []
        assert all(url.startswith("http://127.0.0.1:") for url in requested_urls(driver))
        driver.get("about:blank")


def test_the_page_requests_its_own_server_only(page):
    page.learn("T")
    page.recognises("T", character("T", 1))
    expected = ("", "page.css", "page.js", "api/state", "api/ask", "api/learn")
    url = page.driver.current_url
    assert requested_urls(page.driver) == {url + path for path in expected}


def test_one_drawing_makes_a_class_known_and_a_scribble_stays_unknown(page):
    draw(page.driver, character("L"))
    page.wait_for("answer", "What is it?")
    page.name("ell")
    page.wait_for("lead", "Learnt")
    page.recognises("ell", character("L", 1))
    (sheet,) = page.all("#because li.above svg path")
    stored = page.all("#classes svg path")[0].get_attribute("d")
    assert sheet.get_attribute("d") == stored and stored.count("M") == 1
    (score,) = page.all("#because .number")
    assert 0.9 < float(score.text) <= 1
    page.click("clear")
    page.recognises("unknown", scribble(1))
    page.wait_for("why", "nothing is near enough")
    assert page.all("#because li.above") == [] and len(page.all("#because li")) == 1


def test_the_stored_drawing_is_the_one_that_was_drawn(page):
    page.learn("T")
    stored = page.all("#classes svg path")[0].get_attribute("d")
    ends = stored.removeprefix("M").replace("L", " ").replace("M", " ").split()
    wanted = as_path(character("T")).removeprefix("M").replace("L", " ").replace("M", " ").split()
    assert len(ends) == len(wanted)
    assert all(abs(int(a) - int(b)) <= 2 for a, b in zip(ends, wanted, strict=True))


def test_undo_forget_save_reload_and_load(page):
    for name in ("L", "T", "V"):
        page.learn(name)
    assert page.known == ["L", "T", "V"]
    page.click("undo")
    page.wait_for("status", "undid: learn V")
    assert page.known == ["L", "T"]
    page.click("save")
    page.wait_for("status", "saved to")
    page.all("#classes li")[0].find_element(By.TAG_NAME, "button").click()
    page.wait_for("status", "forgot L")
    assert page.known == ["T"]
    page.driver.refresh()
    page.wait_for("classes", "T")
    assert page.known == ["T"] and "Not saved yet" in page.text("file")
    page.click("load")
    page.wait_for("status", "loaded")
    assert page.known == ["L", "T"]
    page.recognises("L", character("L", 2))


def test_a_bad_name_is_refused_and_markup_is_shown_as_text(page):
    page.name("kea")
    page.wait_for("error", "the drawing is empty")
    draw(page.driver, character("O"))
    page.click("name")
    page.driver.find_element(By.ID, "name").clear()
    page.name("")
    page.wait_for("error", "the name is empty")
    page.name("novel " * 30)
    page.wait_for("error", "at most 40 characters")
    page.driver.find_element(By.ID, "name").clear()
    markup = "<img src=x onerror=alert(1)>"
    page.name(markup)
    page.wait_for("answer", markup)
    assert page.known == [markup] and page.all("main img") == []
    draw(page.driver, character("O", 1))
    page.wait_for("yes", markup)
    assert page.all("main img") == []


def test_drawing_on_while_the_server_is_busy_loses_nothing(page):
    with page.server.page.lock:
        for name in ("T", "sun"):
            draw(page.driver, character(name))
            page.name(name)
        draw(page.driver, character("V"))
    page.wait_for("classes", "sun")
    assert page.known == ["T", "sun"]
    lines = page.each("#classes svg path", "getAttribute('d')")
    assert [line.count("M") for line in lines] == [2, 5]
    assert page.each("#paper path", "getAttribute('d')")[0].count("M") == 1
    assert page.driver.find_element(By.ID, "name").get_attribute("value") == ""
    page.wait_for("answer", "unknown")


def test_the_keyboard_names_undoes_and_clears(page):
    body = page.driver.find_element(By.TAG_NAME, "body")
    draw(page.driver, character("T"))
    page.wait_for("answer", "What is it?")
    # Typing while there is a drawing goes into its name.
    body.send_keys("t")
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)
    page.wait_for("lead", "Learnt")
    page.driver.execute_script("document.activeElement.blur()")
    page.recognises("t", character("T", 1))
    body.send_keys(Keys.CONTROL + "z")
    assert page.all("#paper path")[0].get_attribute("d").count("M") == 1
    body.send_keys(Keys.ESCAPE)
    page.wait_for("hint", "Draw a character here")
    body.send_keys(Keys.CONTROL + "z")
    page.wait_for("status", "undid: learn t")
    assert page.known == []


def test_one_click_learns_another_drawing_of_a_known_class(page):
    page.learn("Z")
    draw(page.driver, character("Z", 1))
    page.wait_for("yes", "Yes, remember this Z too")
    page.click("yes")
    page.wait_for("lead", "Learnt")
    assert page.known == ["Z"] and len(page.all("#classes svg")) == 2


@pytest.mark.parametrize("kind", ["touch", "pen"])
def test_the_page_fits_a_phone_and_takes_finger_and_pen(page, kind):
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    draw(page.driver, character("V"), kind)
    page.name("a name as long as may be, all in one row"[:40])
    page.wait_for("lead", "Learnt")
    page.recognises("a name as long", character("V", 1), kind)
    wide = page.driver.execute_script("return document.documentElement.scrollWidth")
    assert wide == 390


def test_a_file_of_another_session_is_shown_when_the_page_opens(page):
    page.learn("sun")
    page.click("save")
    page.wait_for("status", "saved to")
    with chromium.serving(page.file) as server:
        page.driver.get(server.url)
        page.wait_for("classes", "sun")
        assert "safetensors" in page.text("file") and "Not saved" not in page.text("file")


def test_a_server_that_stopped_is_reported(page, tmp_path):
    with chromium.serving(tmp_path / "other.safetensors") as server:
        page.driver.get(server.url)
        page.wait_for("lead", "It knows nothing yet.")
    draw(page.driver, character("L"))
    page.wait_for("error", "not running any more")
    assert any("ERR_CONNECTION_REFUSED" in one for one in page.errors)
