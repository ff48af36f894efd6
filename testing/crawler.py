"""Follows every link of a site, a few of each shape, and says which lead nowhere."""

import re
from collections import Counter, deque
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import parse_qsl, urldefrag, urljoin, urlsplit

import httpx

LIKE_EACH = 3
"""So many addresses of one shape are visited: the same path but for ids, and the same names in the query."""


@dataclass
class CrawledPage:
    """What matters of a page's HTML."""

    status: int
    links: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)


class _Reader(HTMLParser):
    def __init__(self, page: CrawledPage) -> None:
        super().__init__()
        self.page = page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if "id" in values:
            self.page.ids.add(values["id"])
        if tag in ("a", "area") and "href" in values:
            self.page.links.append(values["href"])
        elif tag == "form" and values.get("method", "get").lower() == "get":
            self.page.links.append(values.get("action", ""))
        elif tag in ("link", "image", "use") and "href" in values:
            self.page.files.append(values["href"])
        elif tag in ("img", "script", "source") and "src" in values:
            self.page.files.append(values["src"])


def shape_of(address: str) -> str:
    """An address without what differs between things of one kind."""
    parts = urlsplit(address)
    path = "/".join("*" if re.search(r"\d", part) else part for part in parts.path.split("/"))
    names = sorted({name for name, _ in parse_qsl(parts.query, keep_blank_values=True)})
    return path + ("?" + "&".join(names) if names else "")


@dataclass
class Crawl:
    """What was found from a starting page on."""

    pages: dict[str, CrawledPage]
    dead: list[str]
    """`from -> to: why`."""

    def examples(self) -> list[str]:
        """One address of each shape; with a query, of each first part of the path and names in the query."""
        found: dict[object, str] = {}
        for address in self.pages:
            path, _, query = shape_of(address).partition("?")
            found.setdefault((urlsplit(path).path.split("/")[1], path.count("/"), query) if query else path, address)
        return list(found.values())


def crawl(client: httpx.Client, start: str = "/") -> Crawl:
    """Follow links from `start`. The client's base address is the site; what leads elsewhere is not followed."""
    base = str(client.base_url)
    found = Crawl({}, [])
    seen: Counter[str] = Counter()
    fragments: list[tuple[str, str, str]] = []
    files: dict[str, str] = {}
    waiting = deque([("", urljoin(base, start))])
    while waiting:
        source, address = waiting.popleft()
        if address in found.pages or seen[shape_of(address)] >= LIKE_EACH:
            continue
        seen[shape_of(address)] += 1
        page = found.pages[address] = read(client, address)
        if page.status >= 400:
            found.dead.append(f"{source} -> {address}: {page.status}")
        files |= {urljoin(address, file): address for file in page.files if not file.startswith("data:")}
        for link in page.links:
            target, fragment = urldefrag(urljoin(address, link))
            if target.startswith(base):
                waiting.append((address, target))
                if fragment:
                    fragments.append((address, target, fragment))
    found.dead += [f"{source} -> {target}#{fragment}: no such place" for source, target, fragment in fragments
                   if target in found.pages and found.pages[target].ids and fragment not in found.pages[target].ids]
    found.dead += [f"{source} -> {file}: file missing" for file, source in files.items()
                   if client.get(file).status_code != 200]
    return found


def read(client: httpx.Client, address: str) -> CrawledPage:
    """Fetch a page and its links; what is no HTML has none."""
    answer = client.get(address, follow_redirects=True)
    page = CrawledPage(answer.status_code)
    if answer.headers.get("content-type", "").startswith("text/html"):
        _Reader(page).feed(answer.text)
    return page
