"""JupyterLab as its user has it: notebooks in browser tabs, with the verbs of a user."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, Locator, Page, expect
from servers import TOKEN, Server

#: Milliseconds for a launch that waits for its job: Slurm starts one within seconds.
LAUNCH_TIMEOUT = 90_000
#: What the status bar says of a kernel that can be talked to.
CONNECTED = re.compile(r"\| (Idle|Busy|Starting)$")
#: Keeps every text that an element has shown. The element outlives what is in it.
KEEP_TEXTS = """element => {
    if (element.texts) return;
    element.texts = [];
    const keep = () => {
        const text = element.innerText.trim();
        if (text && text !== element.texts.at(-1)) element.texts.push(text);
    };
    new MutationObserver(keep).observe(element, {childList: true, characterData: true, subtree: true});
    keep();
}"""


class Cell:
    """A code cell.

    Attributes
    ----------
    prompt : Locator
        What stands beside it: ``[ ]:``, ``[*]:``, ``[1]:``.
    outputs : Locator
        Its outputs, one after another; not their prompts.
    errors : Locator
        Those of them that look like an error: red, as what is written on stderr is.
    stdin : Locator
        Where it asks for input.
    """

    def __init__(self, root: Locator) -> None:
        self._area = root.locator(".jp-Cell-outputArea")
        self.prompt = root.locator(".jp-InputPrompt")
        self.outputs = root.locator(".jp-OutputArea-output")
        self.errors = root.locator("[data-mime-type$='stderr'], [data-mime-type$='error']")
        self.stdin = root.locator("input.jp-Stdin-input")
        self._area.evaluate(KEEP_TEXTS)

    def texts(self) -> list[str]:
        """Every text that its outputs have shown, however shortly."""
        texts: list[str] = self._area.evaluate("element => element.texts")
        return texts

    def answer(self, text: str) -> None:
        self.stdin.fill(text)
        self.stdin.press("Enter")


class Notebook:
    """A notebook in a browser tab of its own.

    Attributes
    ----------
    status : Locator
        What the status bar says of its kernel: ``slurm | Idle``.
    dialog : Locator
        The dialog on top of it all, if there is one.
    """

    def __init__(self, page: Page, path: Path, screenshots: Path) -> None:
        self.page = page
        self.path = path
        self.status = page.locator("#jp-main-statusbar .jp-StatusBar-TextItem", has_text=" | ")
        self.dialog = page.locator(".jp-Dialog")
        self._screenshots = screenshots
        self._cells = page.locator(".jp-NotebookPanel:visible .jp-Notebook .jp-CodeCell")
        self._seen = 0

    @property
    def cells(self) -> list[Cell]:
        """The cells that are not empty; the last one of a notebook always is."""
        return [self._cell(number) for number in range(self._cells.count() - 1)]

    def _cell(self, number: int) -> Cell:
        return Cell(self._cells.nth(number))

    def run(self, code: str) -> Cell:
        """Run some code in a new cell at the end."""
        number = self._cells.count() - 1
        cell = self._cell(number)
        self._cells.nth(number).locator(".cm-content").click()
        self.page.keyboard.insert_text(code)
        self.page.keyboard.press("Shift+Enter")
        expect(self._cells).to_have_count(number + 2)
        return cell

    def connected(self) -> None:
        """Wait until there is a kernel that can be talked to."""
        expect(self.status).to_have_text(CONNECTED, timeout=LAUNCH_TIMEOUT)

    def interrupt(self) -> None:
        with self.page.expect_response(re.compile(r"/api/kernels/[^/]+/interrupt")) as answer:
            self._choose("Kernel", "kernelmenu:interrupt")
        assert answer.value.ok

    def restart(self) -> None:
        """Restart the kernel; return when the server has answered."""
        self._choose("Kernel", "kernelmenu:restart")
        with self.page.expect_response(re.compile(r"/api/kernels/[^/]+/restart"), timeout=LAUNCH_TIMEOUT) as answer:
            self.press("Restart")
        assert answer.value.ok, answer.value.text()

    def shut_down(self) -> None:
        """Shut the kernel down; return when the server has answered."""
        with self.page.expect_response(lambda response: response.request.method == "DELETE") as answer:
            self._choose("Kernel", "kernelmenu:shutdown")
        assert answer.value.ok, answer.value.text()
        expect(self.status).to_have_text(re.compile("^No Kernel"))

    def save(self) -> dict[str, Any]:
        """Save the notebook and return the file's content."""
        with self.page.expect_response(
            lambda response: response.request.method == "PUT" and "/api/contents/" in response.url
        ) as answer:
            self._choose("File", "docmanager:save")
        assert answer.value.ok, answer.value.text()
        content: dict[str, Any] = json.loads(self.path.read_text())
        return content

    def reload(self) -> None:
        """Load the page again; what was not saved is gone."""
        self.page.reload()
        self._cells.first.wait_for()
        self.connected()

    def press(self, button: str) -> None:
        """Press a button of the dialog, which closes."""
        with_text = self.dialog.locator(".jp-Dialog-button", has_text=re.compile(f"^{button}$"))
        with_text.click()

    def _choose(self, menu: str, command: str) -> None:
        self.page.get_by_role("menuitem", name=menu, exact=True).click()
        self.page.locator(f".lm-Menu [data-command='{command}']").click()

    def screenshot(self, name: str) -> None:
        """Keep a picture of what is seen now."""
        self._seen += 1
        self.page.screenshot(path=f"{self._screenshots}-{self._seen}-{name}.png")


class Lab:
    """JupyterLab in a browser without a tab.

    Parameters
    ----------
    context : BrowserContext
        The browser.
    server : Server
        JupyterLab's server.
    folder : Path
        Where its notebooks are.
    screenshots : Path
        Where pictures go, and how their names begin.
    """

    def __init__(self, context: BrowserContext, server: Server, folder: Path, screenshots: Path) -> None:
        self._context = context
        self._server = server
        self._folder = folder
        self._screenshots = screenshots
        self._opened = 0

    def open_notebook(self, kernel: str, name: str = "notebook") -> Notebook:
        """Open a new notebook with a kernel; return when the server has answered that it started, or why not."""
        path = self._folder / f"{name}.ipynb"
        kernelspec = {"name": kernel, "display_name": kernel}
        path.write_text(
            json.dumps({"cells": [], "metadata": {"kernelspec": kernelspec}, "nbformat": 4, "nbformat_minor": 5})
        )
        notebook = self._tab(path)
        with notebook.page.expect_response(
            lambda response: response.request.method == "POST" and response.url.partition("?")[0].endswith("/sessions"),
            timeout=LAUNCH_TIMEOUT,
        ) as answer:
            self._load(notebook)
        if answer.value.ok:
            notebook.connected()
        return notebook

    def open_again(self, notebook: Notebook) -> Notebook:
        """Open a notebook in one more tab."""
        another = self._tab(notebook.path)
        self._load(another)
        another.connected()
        return another

    def _tab(self, path: Path) -> Notebook:
        page = self._context.new_page()
        page.on("dialog", lambda dialog: dialog.accept())  # a page with unsaved work asks before it is left
        self._opened += 1
        return Notebook(page, path, self._screenshots)

    def _load(self, notebook: Notebook) -> None:
        # each tab with a workspace of its own: two that share one fight over it
        where = f"workspaces/{self._screenshots.name}-{self._opened}/tree/{notebook.path.name}"
        notebook.page.goto(f"http://{self._server.base}/lab/{where}?token={TOKEN}")

    def screenshot(self, name: str) -> None:
        """Keep a picture of every tab."""
        for number, page in enumerate(self._context.pages, 1):
            page.screenshot(path=f"{self._screenshots}-{name}-{number}.png")

    def close(self) -> None:
        """Close every tab and shut every kernel down."""
        for page in self._context.pages:
            page.close()
        headers = {"Authorization": f"token {TOKEN}"}
        ask = self._context.request
        sessions = f"http://{self._server.base}/api/sessions"
        for session in ask.get(sessions, headers=headers).json():
            ask.delete(f"{sessions}/{session['id']}", headers=headers)
