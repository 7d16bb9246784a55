"""The page of a board in a real browser, headless: what a reader does with mouse and keyboard, and what leaves it."""

import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import hostile
import pytest
from synthetic import TRUTHS, realistic, with_samples

from plad_bench.records.text import printable
from plad_bench.render.write import render_board

pytestmark = pytest.mark.browser

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
)


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium: pip install 'plad-bench[browser]'")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    chromedriver = shutil.which("chromedriver")
    if not (browser and chromedriver):
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    yield driver
    driver.quit()


class Reader:
    """Somebody who reads one page."""

    def __init__(self, driver, url):
        self.driver, self.url = driver, url
        driver.get_log("performance")
        driver.get_log("browser")
        driver.get(url)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def one(self, selector):
        return self.driver.find_element("css selector", selector)

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def press(self, *keys):
        from selenium.webdriver.common.action_chains import ActionChains

        actions = ActionChains(self.driver)
        for key in keys:
            actions.send_keys(key)
        actions.perform()

    def point_at(self, element):
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).move_to_element(element).perform()

    def column(self, table, number):
        """The visible texts of a column."""
        return self.run(
            "return [...arguments[0].tBodies[0].rows].filter((row) => !row.hidden)"
            ".map((row) => row.cells[arguments[1]].textContent)",
            table,
            number,
        )

    def requests(self):
        """Every address that was asked for since the page was opened, but for those of the browser's own first tab."""
        events = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        asked = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [a["request"]["url"] for a in asked if not a["documentURL"].startswith("chrome://")]

    def width(self, pixels):
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": pixels, "height": 800, "deviceScaleFactor": 1, "mobile": pixels < 600},
        )


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    return saved(with_samples(realistic(tmp_path_factory.mktemp("boards") / "demo", examples=60)))


def saved(directory):
    """The page of a board, written."""
    page = directory / "index.html"
    page.write_bytes(render_board(directory)[page])
    return page


@pytest.fixture
def reader(driver, board):
    """Reads the board; afterwards nothing was asked for but the page, and nothing went wrong in it."""
    reader = Reader(driver, board.as_uri())
    yield reader
    reader.width(1280)
    assert reader.requests() == [reader.url]
    assert driver.get_log("browser") == []


@pytest.fixture
def keys(driver):
    from selenium.webdriver.common.keys import Keys

    return Keys


def ranking(reader):
    return next(t for t in reader.all("table") if "Win-tie-loss" in t.text)


def metrics(reader):
    return next(t for t in reader.all("table") if "rouge-l" in t.text)


def head(table, text):
    return next(th for th in table.find_elements("css selector", "th") if text in th.text)


def test_a_click_on_a_head_sorts_by_number_the_best_first(reader):
    table = metrics(reader)
    rouge = head(table, "rouge-l")
    number = reader.run("return arguments[0].cellIndex", rouge)
    rouge.find_element("css selector", "button").click()
    assert rouge.get_attribute("aria-sort") == "descending"
    values = [float(text.split()[0]) for text in reader.column(table, number)]
    assert values == sorted(values, reverse=True)
    rouge.find_element("css selector", "button").click()
    assert rouge.get_attribute("aria-sort") == "ascending"
    assert [float(text.split()[0]) for text in reader.column(table, number)] == values[::-1]
    missing = head(table, "missing-slots")
    missing.find_element("css selector", "button").click()
    assert (missing.get_attribute("aria-sort"), rouge.get_attribute("aria-sort")) == ("ascending", None)


def test_the_keyboard_sorts_text_and_leaves_empty_cells_last(reader, keys):
    table = ranking(reader)
    reader.run("arguments[0].focus()", head(table, "Method").find_element("css selector", "button"))
    reader.press(keys.ENTER)
    assert reader.column(table, 1) == sorted(TRUTHS)
    reader.press(keys.SPACE)
    assert reader.column(table, 1) == sorted(TRUTHS, reverse=True)
    costs = next(t for t in reader.all("table") if "Peak memory" in t.text)
    for _ in range(2):
        head(costs, "Teacher, if alone").find_element("css selector", "button").click()
        assert reader.column(costs, 2)[-1] == "—"  # sft needs none


def test_the_filter_hides_methods_by_what_they_ask_of_the_teacher(reader):
    table = ranking(reader)
    boxes = {box.get_attribute("value"): box for box in reader.all(".filter input")}
    boxes["text"].click()
    boxes["token log-probs"].click()
    wanted = {name for name, (*_, access) in TRUTHS.items() if access == "logits"}
    assert set(reader.column(table, 1)) == wanted
    assert "of 5 methods shown" in reader.one(".filter output").text
    shown = {code.text for code in reader.all(".sample:not([hidden]) li .by code") if code.is_displayed()}
    assert shown == wanted | {"teacher", "student", "sft-init"}
    boxes["text"].click()
    boxes["token log-probs"].click()
    assert len(reader.column(table, 1)) == 5
    assert reader.one(".filter output").text == ""


def test_intervals_are_told_on_hover_and_on_focus(reader, keys):
    table = metrics(reader)
    cells = table.find_elements("css selector", "tbody td[data-tip^='95 % interval']")
    tip = reader.one("#tip")
    assert not tip.is_displayed()
    reader.point_at(cells[0])
    assert tip.text == cells[0].get_attribute("data-tip")
    reader.press(keys.ESCAPE)
    assert not tip.is_displayed()
    first = table.find_element("css selector", "td[tabindex='0']")
    reader.run("arguments[0].focus()", first)
    reader.press(keys.ARROW_RIGHT)
    at = reader.driver.switch_to.active_element
    assert at == cells[0]
    assert tip.text.startswith("95 % interval")
    assert at.get_attribute("aria-describedby") == tip.get_attribute("id")
    reader.press(keys.ARROW_DOWN, keys.ARROW_RIGHT)
    at = reader.driver.switch_to.active_element
    assert reader.run("return [arguments[0].parentElement.rowIndex, arguments[0].cellIndex]", at) == [2, 2]
    assert len(table.find_elements("css selector", "td[tabindex='0']")) == 1


def test_samples_are_leafed_through_by_button_and_by_key(reader, keys):
    def prompt():
        (shown,) = [s for s in reader.all(".sample") if s.is_displayed()]
        return shown.find_element("css selector", "dd").text

    assert prompt() == "name[A] 0"
    _, forth = reader.all(".turn button")
    forth.click()
    assert (prompt(), reader.one(".turn output").text) == ("name[A] 1", "2 of 2")
    reader.press(keys.ARROW_RIGHT)
    assert prompt() == "name[A] 0"
    reader.one(".sample:not([hidden]) li").click()  # the keys work from anywhere in it
    reader.press(keys.END)
    assert prompt() == "name[A] 1"
    reader.press(keys.ARROW_LEFT)
    assert prompt() == "name[A] 0"
    assert "kd.s0 says\nthis" in reader.one(".sample:not([hidden]) ul").text


@pytest.mark.parametrize("pixels", [390, 1280, 1400, 2200])
def test_the_page_is_no_wider_than_the_screen_and_wide_tables_scroll(reader, pixels):
    reader.width(pixels)
    assert reader.run(
        "const { scrollWidth, clientWidth } = document.documentElement; return scrollWidth <= clientWidth"
    )
    wide = reader.run(
        "return [...document.querySelectorAll('.scroll')].map((box) => box.scrollWidth > box.clientWidth)"
    )
    assert any(wide) == (pixels == 390)
    cell = ranking(reader).find_elements("css selector", "td[data-tip]")[-1]
    reader.run("arguments[0].focus()", cell)
    tip = reader.one("#tip").rect
    assert tip["x"] >= 0
    assert tip["x"] + tip["width"] <= pixels


@pytest.mark.parametrize(("pixels", "kind"), [(390, "narrow"), (1400, "wide")])
def test_plots_suit_the_screen_and_all_their_points_are_in_sight(reader, pixels, kind):
    reader.width(pixels)
    shown = [svg for svg in reader.all(".plot svg") if svg.is_displayed()]
    assert [svg.get_attribute("class") for svg in shown] == [kind, kind]
    dots = [dot.rect for svg in shown for dot in svg.find_elements("css selector", ".dot")]
    assert len(dots) == 2 * len(TRUTHS)
    assert all(dot["x"] >= 0 and dot["x"] + dot["width"] <= pixels for dot in dots)
    sizes = reader.run(
        "return [...arguments].map((svg) => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width)", *shown
    )
    assert min(sizes) >= 1, "text is no smaller than it was drawn"


def test_the_methods_that_may_be_best_are_marked(reader):
    rows = ranking(reader).find_elements("css selector", "tbody tr")
    assert [row.get_attribute("class") == "lead" for row in rows] == ["★" in row.text for row in rows]


def test_colours_follow_the_reader(reader):
    def paper(mode):
        feature = {"name": "prefers-color-scheme", "value": mode}
        reader.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        return reader.run("return getComputedStyle(document.body).backgroundColor")

    assert (paper("light"), paper("dark")) == ("rgb(255, 255, 255)", "rgb(13, 17, 23)")


@pytest.mark.parametrize("text", [t for t in hostile.TEXTS if set(t) & set("<[") and "\ud800" not in t])
def test_hostile_text_stays_text_and_asks_for_nothing(driver, tmp_path, text):
    reader = Reader(driver, saved(hostile.board(tmp_path / "b", text)).as_uri())
    assert len(reader.all("script")) == 1
    assert reader.all("img, iframe, object, embed, link, base, form") == []
    assert reader.run("return document.querySelector('.sample dd').textContent") == printable(f"{text} 0")
    for button in reader.all("th button, .turn button"):
        button.click()
    assert reader.requests() == [reader.url]
    assert driver.get_log("browser") == []


@pytest.fixture
def server():
    """(address, paths that were asked for) of a server on this machine."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", asked
        http.shutdown()
        thread.join()


def test_what_would_leave_the_page_is_noticed_and_its_policy_forbids_it(driver, board, server, tmp_path):
    address, asked = server
    markup = f'<main><img src="{address}/p.png"><script>fetch("{address}/x")</script>'
    source = board.read_text().replace("<main>", markup, 1)
    (tmp_path / "kept.html").write_text(source)
    reader = Reader(driver, (tmp_path / "kept.html").as_uri())
    assert f"{address}/p.png" in reader.requests()  # tried, and stopped
    assert asked == []
    said = " ".join(entry["message"] for entry in driver.get_log("browser"))
    assert "Content Security Policy" in said
    (tmp_path / "open.html").write_text(source.replace("Content-Security-Policy", "x", 1))
    Reader(driver, (tmp_path / "open.html").as_uri())
    assert "/p.png" in asked
