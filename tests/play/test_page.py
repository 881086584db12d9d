"""The page in a real browser, as a visitor meets it: drawn on, named, asked, forgotten, saved."""

import browsers
import pytest
from browsers import asked_for, draw
from hands import as_path, letter, scribble

pytest.importorskip("selenium", reason="Selenium is not installed")

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

pytestmark = [
    pytest.mark.skipif(not browsers.CHROMIUM, reason="there is no chromium"),
    pytest.mark.skipif(not browsers.DRIVER, reason="there is no chromedriver"),
]
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with browsers.chromium(tmp_path_factory.mktemp("profile")) as driver:
        driver.set_window_size(1000, 1000)
        yield driver


class Page:
    """What a visitor sees and does."""

    def __init__(self, driver, url):
        self.driver = driver
        driver.get(url)
        self.sees("lead", "It knows nothing yet.")

    def text(self, where):
        return self.driver.find_element(By.ID, where).text

    def sees(self, where, text):
        WebDriverWait(self.driver, 120, 0.05).until(
            lambda _: text in self.text(where), f"{text!r} in {where}"
        )

    def click(self, where):
        self.driver.find_element(By.ID, where).click()

    def name(self, name):
        self.driver.find_element(By.ID, "name").send_keys(name + Keys.ENTER)

    def is_told(self, answer, strokes, kind="mouse"):
        draw(self.driver, strokes, kind)
        self.sees("lead", "This is")
        self.sees("answer", answer)

    def learns(self, name, seed=0):
        draw(self.driver, letter(name, seed))
        self.name(name)
        self.sees("lead", "Learnt")
        self.sees("answer", name)

    def all(self, css):
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    @property
    def known(self):
        return [one.text for one in self.all("#classes .label")]

    @property
    def errors(self):
        """What the browser complained of, but for the refusals that were asked for."""
        logged = [one["message"] for one in self.driver.get_log("browser")]
        return [one for one in logged if "status of 400" not in one]


@pytest.fixture
def page(driver, tmp_path):
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    with browsers.serving(tmp_path / "letters.safetensors") as server:
        asked_for(driver)
        page = Page(driver, server.url)
        page.server, page.file = server, server.session.file
        yield page
        assert page.errors == []
        assert all(url.startswith("http://127.0.0.1:") for url in asked_for(driver))
        driver.get("about:blank")


def test_the_page_asks_nobody_but_its_own_server(page):
    page.learns("T")
    page.is_told("T", letter("T", 1))
    asked = asked_for(page.driver)
    wanted = ("", "page.css", "page.js", "api/state", "api/ask", "api/learn")
    assert asked == {page.driver.current_url + path for path in wanted}


def test_it_is_known_from_one_drawing_and_a_scribble_is_not(page):
    draw(page.driver, letter("L"))
    page.sees("answer", "What is it?")
    page.name("ell")
    page.sees("lead", "Learnt")
    page.is_told("ell", letter("L", 1))
    (sheet,) = page.all("#because li.above svg path")
    kept = page.all("#classes svg path")[0].get_attribute("d")
    assert sheet.get_attribute("d") == kept and kept.count("M") == 1
    (score,) = page.all("#because .number")
    assert 0.9 < float(score.text) <= 1
    page.click("clear")
    page.is_told("unknown", scribble(1))
    page.sees("why", "nothing is near enough")
    assert page.all("#because li.above") == [] and len(page.all("#because li")) == 1


def test_what_is_drawn_is_what_is_kept(page):
    page.learns("T")
    kept = page.all("#classes svg path")[0].get_attribute("d")
    ends = kept.removeprefix("M").replace("L", " ").replace("M", " ").split()
    wanted = as_path(letter("T")).removeprefix("M").replace("L", " ").replace("M", " ").split()
    assert len(ends) == len(wanted)
    assert all(abs(int(a) - int(b)) <= 2 for a, b in zip(ends, wanted, strict=True))


def test_undo_forget_save_reload_and_load(page):
    for name in ("L", "T", "V"):
        page.learns(name)
    assert page.known == ["L", "T", "V"]
    page.click("undo")
    page.sees("status", "took back: learn V")
    assert page.known == ["L", "T"]
    page.click("save")
    page.sees("status", "saved to")
    page.all("#classes li")[0].find_element(By.TAG_NAME, "button").click()
    page.sees("status", "forgot L")
    assert page.known == ["T"]
    page.driver.refresh()
    page.sees("classes", "T")
    assert page.known == ["T"] and "Not saved yet" in page.text("file")
    page.click("load")
    page.sees("status", "loaded")
    assert page.known == ["L", "T"]
    page.is_told("L", letter("L", 2))


def test_a_bad_name_gets_a_sentence_and_markup_is_shown_as_text(page):
    page.name("kea")
    page.sees("error", "nothing on the paper yet")
    draw(page.driver, letter("O"))
    page.click("name")
    page.driver.find_element(By.ID, "name").clear()
    page.name("")
    page.sees("error", "has no name yet")
    page.name("novel " * 30)
    page.sees("error", "at most 40 characters")
    page.driver.find_element(By.ID, "name").clear()
    markup = "<img src=x onerror=alert(1)>"
    page.name(markup)
    page.sees("answer", markup)
    assert page.known == [markup] and page.all("main img") == []
    draw(page.driver, letter("O", 1))
    page.sees("yes", markup)
    assert page.all("main img") == []


def test_who_draws_on_while_it_is_learning_loses_nothing(page):
    with page.server.lock:
        for name in ("T", "sun"):
            draw(page.driver, letter(name))
            page.name(name)
        draw(page.driver, letter("V"))
    page.sees("classes", "sun")
    assert page.known == ["T", "sun"]
    counts = [path.get_attribute("d").count("M") for path in page.all("#classes svg path")]
    assert counts == [2, 5]
    assert page.all("#paper path")[0].get_attribute("d").count("M") == 1
    assert page.driver.find_element(By.ID, "name").get_attribute("value") == ""
    page.sees("answer", "unknown")


def test_the_keyboard_names_takes_back_and_clears(page):
    body = page.driver.find_element(By.TAG_NAME, "body")
    draw(page.driver, letter("T"))
    page.sees("answer", "What is it?")
    # Who types while a drawing lies there is naming it.
    body.send_keys("t")
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)
    page.sees("lead", "Learnt")
    page.driver.execute_script("document.activeElement.blur()")
    page.is_told("t", letter("T", 1))
    body.send_keys(Keys.CONTROL + "z")
    assert page.all("#paper path")[0].get_attribute("d").count("M") == 1
    body.send_keys(Keys.ESCAPE)
    page.sees("hint", "Draw a character here")
    body.send_keys(Keys.CONTROL + "z")
    page.sees("status", "took back: learn t")
    assert page.known == []


def test_one_click_remembers_another_drawing_of_what_was_known(page):
    page.learns("Z")
    draw(page.driver, letter("Z", 1))
    page.sees("yes", "Yes, remember this Z too")
    page.click("yes")
    page.sees("lead", "Learnt")
    assert page.known == ["Z"] and len(page.all("#classes svg")) == 2


@pytest.mark.parametrize("kind", ["touch", "pen"])
def test_a_phone_has_no_sideways_scroll_and_is_drawn_on_by_finger_or_pen(page, kind):
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    draw(page.driver, letter("V"), kind)
    page.name("a name as long as may be, all in one row"[:40])
    page.sees("lead", "Learnt")
    page.is_told("a name as long", letter("V", 1), kind)
    wide = page.driver.execute_script("return document.documentElement.scrollWidth")
    assert wide == 390


def test_a_file_of_another_session_is_shown_when_the_page_opens(page):
    page.learns("sun")
    page.click("save")
    page.sees("status", "saved to")
    with browsers.serving(page.file) as server:
        page.driver.get(server.url)
        page.sees("classes", "sun")
        assert "safetensors" in page.text("file") and "Not saved" not in page.text("file")


def test_a_server_that_stopped_is_said_in_a_sentence(page, tmp_path):
    with browsers.serving(tmp_path / "other.safetensors") as server:
        page.driver.get(server.url)
        page.sees("lead", "It knows nothing yet.")
    draw(page.driver, letter("L"))
    page.sees("error", "not running any more")
    assert any("ERR_CONNECTION_REFUSED" in one for one in page.errors)
