"""The documents' commands do what is shown below them. Typed as they are printed, but for the ports."""

import pages
import pytest

PAGES = {"README.md": 12, "docs/open-inference.md": 7, "docs/clients.md": 3, "docs/http.md": 9}


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_is_what_is_printed(server, page):
    commands = pages.commands(page)
    assert len(commands) == PAGES[page], commands
    with pages.Terminal(server) as terminal:
        for typed in commands:
            printed = terminal.type(typed.command)
            assert typed.agrees(printed), f"$ {typed.command}\n{printed}\nbut {page} shows:\n{typed.shown}"


def test_what_differs_is_found():
    same, other = "item 1  0.5 s  ok", "item 1  0.5 s  failed"
    assert pages.Typed("tidemill scan --sample", same).agrees("item 27 12.25 s ok\n")
    assert not pages.Typed("tidemill scan --sample", same).agrees(other)
    assert not pages.Typed("curl localhost:8080/v2", same).agrees("item 2  0.5 s  ok")


def test_a_command_ends_where_the_shell_says_so():
    block = "$ one 'a\nb' \\\nc\nprinted\n$ two <<'END' | cat\nit's\nEND\n$ three"
    typed = list(pages._typed(iter(block.splitlines())))
    assert [(one.command, one.shown) for one in typed] == [
        ("one 'a\nb' \\\nc", "printed"),
        ("two <<'END' | cat\nit's\nEND", ""),
        ("three", ""),
    ]
