"""Times the shipped models in the browser: loading, and each segment.

  python -m tests.browser_times [REPEATS [PAUSE]]

Each repeat loads the page anew for each model and solves its first examples,
after PAUSE seconds (3) in which somebody would look at the page.
"""

import pathlib
import shutil
import statistics
import sys
import tempfile
import time

from experiments.reporting import browser_page
from tests import browsers

_MODELS = pathlib.Path(__file__).parents[1] / 'docs' / 'solve'
_EXAMPLES = 3


def _times(page: browsers.Page) -> list[list[float]]:
  """Milliseconds of each segment of the first examples."""
  found = []
  for example in range(_EXAMPLES):
    page.one(f'#example option[value="{example}"]').click()
    page.one('#solve').click()
    # Asking whether it is done would take the processor from it.
    time.sleep(1)
    page.wait(lambda: page.one('#solve').text == 'Solve' and _rows(page))
    found.append([float(row.text.split()[-1]) for row in _rows(page)])
  return found


def _rows(page: browsers.Page) -> list:
  return page.all('#table tbody tr')


def main(repeats: str = '3', pause: str = '3') -> None:
  """Prints for each model the seconds to be ready, and of the segments."""
  folder = pathlib.Path(tempfile.mkdtemp())
  shutil.copytree(_MODELS, folder, dirs_exist_ok=True)
  browser_page.copy_static_files(folder)
  address = f'http://localhost:{browser_page.serve(folder)}/index.html'
  with browsers.started(tempfile.mkdtemp()) as browser:
    for model in sorted(path.name for path in (folder / 'models').iterdir()):
      ready, first, others = [], [], []
      for _ in range(int(repeats)):
        browser.get('about:blank')
        begin = time.monotonic()
        page = browsers.Page(browser, f'{address}#{model}')
        page.wait(lambda page=page: page.one('#status').text == 'Ready.')
        ready.append(time.monotonic() - begin)
        time.sleep(float(pause))
        for one in _times(page):
          first.append(one[0])
          others += one[1:]
      print(f'{model}: ready after {max(ready):.1f} s at most')
      for what, ms in ('the first segment', first), ('others', others):
        above = f'{sum(x > 50 for x in ms)} of {len(ms)}'
        print(
          f'  {what}: {min(ms):.0f} to {max(ms):.0f} ms, median '
          f'{statistics.median(ms):.0f}; {above} take more than 50'
        )


if __name__ == '__main__':
  main(*sys.argv[1:])
