"""Draw docs/play.png, the page after a character was drawn twice, with strokes of our own.

Run by hand, where Chromium is: `python -m tests.play.picture`.
"""

import tempfile
from pathlib import Path

from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tests.chromium import chromium, draw, serving
from tests.drawings import character

DOCS = Path(__file__).resolve().parents[2] / "docs"


def main() -> None:
    """Teach it five characters, draw one again, and keep what is seen."""
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder) / "drawings.safetensors") as server,
        chromium(Path(folder) / "profile") as driver,
    ):
        server.session.file = Path("drawings.safetensors")

        def sees(lead: str, answer: str) -> None:
            WebDriverWait(driver, 120).until(
                lambda _: (
                    [driver.find_element("id", at).text for at in ("lead", "answer")]
                    == [lead, answer]
                )
            )

        driver.set_window_size(1000, 940)
        driver.get(server.url)
        for name in ("L", "T", "V", "sun", "O"):
            draw(driver, character(name))
            driver.find_element("id", "name").send_keys(name + Keys.ENTER)
            sees("Learnt", name)
        draw(driver, character("sun", 3))
        sees("This is", "sun")
        driver.execute_script("document.activeElement.blur()")
        (DOCS / "play.png").write_bytes(driver.get_screenshot_as_png())


if __name__ == "__main__":
    main()
