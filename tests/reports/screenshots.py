"""Pictures of a page as people see it: whole, at 1280 px in light colours and at 390 px in dark ones.

    python tests/reports/screenshots.py PAGE.html... --out FOLDER

Needs Chromium and the extra `test`. What the browser logs is printed; a page that logs anything fails.
"""

import argparse
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

SIZES = ((1280, "light"), (390, "dark"))
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def main() -> None:
    """Write NAME-WIDTH.png for each page and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("screenshots"))
    parser.add_argument("--from", dest="anchor", default=None, help="the id of a heading: one window, from there on")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    logged: list[str] = []
    with sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, BROWSERS)), None)
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        for page in options.pages:
            for width, scheme in SIZES:
                tab = browser.new_context(viewport={"width": width, "height": 1000}, color_scheme=scheme).new_page()
                tab.on("console", lambda message: logged.append(message.text))
                tab.goto(page.resolve().as_uri() + (f"#{options.anchor}" if options.anchor else ""))
                tab.wait_for_function(
                    "document.querySelectorAll('figure .chart svg').length === "
                    "document.querySelectorAll('figure[data-chart]').length"
                )
                target = options.out / f"{page.stem}{f'-{options.anchor}' if options.anchor else ''}-{width}.png"
                tab.screenshot(path=target, full_page=options.anchor is None)
                sys.stdout.write(f"{target}\n")
        browser.close()
    if logged:
        sys.exit("\n".join(logged))


if __name__ == "__main__":
    main()
