"""Chromium without a window, for the tests of pages."""

import contextlib
import json
import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

# As root, and without Chromium's own requests.
_FLAGS = (
  '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic',
  '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync', '--window-size=1000,800',
)  # fmt: skip


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
  """Chromium without a window, its console and its requests being recorded."""
  if None in _programs():
    pytest.skip('no chromium and chromedriver here: run `make browser`')
  with started(tmp_path_factory.mktemp('profile')) as driver:
    yield driver


def _programs():
  return [shutil.which(name) for name in ('chromium', 'chromedriver')]


@contextlib.contextmanager
def started(profile):
  """The browser, which keeps what is its own in an empty directory."""
  chromium, chromedriver = _programs()
  options = webdriver.ChromeOptions()
  options.binary_location = chromium
  for flag in (*_FLAGS, f'--user-data-dir={profile}'):
    options.add_argument(flag)
  options.set_capability(
    'goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'}
  )
  driver = webdriver.Chrome(
    options, service=webdriver.ChromeService(chromedriver)
  )
  yield driver
  driver.quit()


class Page:
  """A page in the browser, as one who uses it sees it."""

  def __init__(self, browser, address):
    self._browser, self._address = browser, address
    for log in ('browser', 'performance'):
      browser.get_log(log)
    browser.get(address)

  def errors(self):
    """All that the page wrote to its console."""
    return self._browser.get_log('browser')

  def requests(self):
    """Addresses that the page asked for, itself left out."""
    messages = [
      json.loads(entry['message'])['message']
      for entry in self._browser.get_log('performance')
    ]
    urls = [
      message['params']['request']['url']
      for message in messages
      if message['method'] == 'Network.requestWillBeSent'
      # The browser's own first page is not ours.
      and not message['params']['documentURL'].startswith('chrome:')
    ]
    assert urls.pop(0) == self._address.split('#')[0]
    return urls

  def all(self, selector):
    return self._browser.find_elements(By.CSS_SELECTOR, selector)

  def one(self, selector):
    return self._browser.find_element(By.CSS_SELECTOR, selector)

  def press(self, *keys):
    """Types wherever the focus is."""
    ActionChains(self._browser).send_keys(*keys).perform()

  def focused(self):
    return self._browser.switch_to.active_element

  def tab_to(self, selector):
    """Tabs on until the focus is there."""
    for _ in range(60):
      if self.focused() in self.all(selector):
        return
      self.press(Keys.TAB)
    raise AssertionError(f'no way to {selector} by Tab')

  def script(self, text):
    return self._browser.execute_script(text)

  def wait(self, until):
    """Waits until a condition of this page holds."""
    WebDriverWait(self._browser, 120).until(lambda _: until())
