"""The page of a run in a real browser: nothing sticks out on a telephone, both modes colour the page, nothing is
fetched.

A page beside the report holds it in frames of several widths and writes down its measurements. Skipped without
Chromium.
"""

import json
import re
import shutil
import subprocess

import pytest
from evaluation_tools import fill

from madx.report.page import write_report

pytestmark = pytest.mark.slow  # a browser is started

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HARNESS = """<!doctype html><body><script>
const widths = [390, 1280], found = {};
let left = widths.length;
for (const width of widths) {
  const frame = document.createElement("iframe");
  frame.width = width; frame.height = 800;
  frame.onload = () => {
    const view = frame.contentWindow, page = frame.contentDocument, root = page.documentElement;
    const style = view.getComputedStyle(page.body);
    const all = (selector) => [...page.querySelectorAll(selector)];
    const right = (e) => e.getBoundingClientRect().right, wide = (e) => e.getBoundingClientRect().width;
    const out = all("main > section > *, .panels > *, .sentence").filter((e) => right(e) > width);
    const open = all("svg").filter((e) => e.closest("details:not([open])") === null);
    page.querySelector(".wide").focus();
    found[width] = {
      over: root.scrollWidth - root.clientWidth, out: out.map((e) => e.outerHTML.slice(0, 80)),
      hidden: open.filter((e) => wide(e) < 50).length, focus: page.activeElement.className,
      fetched: view.performance.getEntriesByType("resource").map((e) => e.name),
      background: style.backgroundColor, text: view.getComputedStyle(page.querySelector("svg text")).fill,
    };
    if (--left === 0) document.title = "done " + JSON.stringify(found);
  };
  frame.src = "report.html"; document.body.append(frame);
}
</script></body>"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The measurements of the harness in light and dark mode, by width."""
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    folder = tmp_path_factory.mktemp("browser")
    fill(folder)
    write_report(folder)
    (folder / "harness.html").write_text(HARNESS)
    result = {}
    for mode, number in (("dark", 0), ("light", 1)):
        words = [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--allow-file-access-from-files",
            "--virtual-time-budget=5000",
            f"--user-data-dir={folder / mode}",
            f"--blink-settings=preferredColorScheme={number}",
            "--dump-dom",
            (folder / "harness.html").as_uri(),
        ]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
        title = re.search(r"<title>done (.*?)</title>", done.stdout)
        assert title, (done.stdout[:300], done.stderr[-600:])
        result[mode] = json.loads(title[1].replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&"))
    return result


@pytest.mark.parametrize("width", ["390", "1280"])
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_nothing_sticks_out_is_hidden_or_fetched(mode, width, measured):
    page = measured[mode][width]
    assert (page["over"], page["out"], page["hidden"], page["fetched"]) == (0, [], 0, [])
    assert page["focus"] == "wide", "a region that scrolls takes the keyboard's focus"


def test_each_mode_has_its_colours(measured):
    light, dark = (measured[mode]["1280"] for mode in ("light", "dark"))
    assert (light["background"], dark["background"]) == ("rgb(255, 255, 255)", "rgb(20, 23, 26)")
    assert (light["text"], dark["text"]) == ("rgb(26, 29, 33)", "rgb(232, 234, 237)")
