"""Texts that must stay text on every page: as a prompt, response, comment, file name, run name, parameter or reason.

`MARK` is in each of them, so that a test can find them again; `escaped_in` checks a page's HTML.
"""

from html.parser import HTMLParser

MARK = "pwn7331"

TEXTS = (
    f"<script>window.{MARK}=1</script>",
    f"<img src=x onerror=\"window.{MARK}=1\">",
    f"<svg/onload=window.{MARK}=1>",
    f"\"><script>window.{MARK}=1</script>",
    f"' onmouseover='window.{MARK}=1' x='",
    f"</title><script>window.{MARK}=1</script>",
    f"</textarea></pre></svg></style><iframe src=javascript:window.{MARK}=1>",
    f"javascript:window.{MARK}=1//",
    f"data:text/html,<script>window.{MARK}=1</script>",
    f"{{{{ 7 * 7331 }}}} {{% raw %}} ${{7*7331}} #{{7*7331}} {MARK}",
    f"<meta http-equiv=refresh content='0;url=http://example.org/{MARK}'>",
    f"<base href=http://example.org/{MARK}/><form action=http://example.org/{MARK}><input name=token>",
    f"<style>body{{background:url(http://example.org/{MARK})}}</style>",
    f"<!--{MARK}--><![CDATA[{MARK}]]>&lt;b&gt;&#x3c;script>",
    f"../../../../etc/passwd?{MARK}#x/..;%2e%2e%2f\\..\\",
    f"//example.org/{MARK}",
    f"{MARK}\r\nSet-Cookie: {MARK}=1\r\n\r\n<script>",
    f"{MARK}\u202etxt.exe\u2066\u200b\ufeff\x7f\x1b[31m",
    f"{MARK} ' OR 1=1; DROP TABLE runs; --",
    f"{MARK}" + "A" * 5000,
)


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"iframe", "object", "embed", "base", "style"}:
            self.found.append(f"<{tag}>")
        values = dict(attrs)
        if tag == "script" and not (values.get("src") or "").startswith("/static/"):
            self.found.append(f"<script> {values}")
        if tag == "meta" and "example.org" in (values.get("content") or ""):
            self.found.append(f"<meta> {values}")
        for name, value in attrs:
            if name.startswith("on") or name == "style" or MARK in name:
                self.found.append(f"{tag} {name}={value!r:.80}")
            if name in {"href", "src", "action", "formaction", "xlink:href", "data"} and not safe_address(value or ""):
                self.found.append(f"{tag} {name}={value!r:.80}")


def safe_address(address: str) -> bool:
    """True for a link that stays on this site, or leads to one that the project configured."""
    if address.startswith(("http://127.0.0.1", "http://localhost", "#", "?")):
        return True
    return address.startswith("/") and not address.startswith(("//", "/\\"))


def active_in(html: str) -> list[str]:
    """Everything in a page that runs, loads, or leads elsewhere; a page in order has nothing of that."""
    parser = _Tags()
    parser.feed(html)
    if "51317" in html and "7331" in html.replace("51317", ""):
        parser.found.append("a template was evaluated")
    return parser.found
