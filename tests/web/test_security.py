"""The door: headers everywhere, the token, the origin, the host, the size of a body, and the limit on wrong tokens."""

import errno
import http.client
import logging
import os
import socket
import stat
import threading
from collections.abc import Iterator

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request
from fastapi.testclient import TestClient

from plumbline.errors import UserError
from plumbline.project.home import Home
from plumbline.web import security
from plumbline.web.app import create_app
from plumbline.web.guard import MOST_ADDRESSES, MOST_FAILURES, Attempts
from plumbline.web.security import Keys, form_of, open_keys, parse_form
from plumbline.web.server import is_this_machine_alone
from testing.sites import ADDRESS, login, served, visit

SAME_SITE = {"sec-fetch-site": "same-origin", "origin": ADDRESS}


@pytest.fixture
def app(empty: Home) -> FastAPI:
    """The site with a page that takes a form, one that takes anything, one that breaks, and a webhook."""
    app = create_app(empty)
    router = APIRouter()

    @router.post("/vote")
    async def vote(request: Request) -> dict[str, str]:
        return await form_of(request)

    @router.put("/api/anything")
    @router.post("/api/anything")
    @router.delete("/api/anything")
    async def anything(request: Request) -> int:
        return len(await request.body())

    @router.post("/hooks/test")
    async def hook(request: Request) -> int:
        return len(await request.body())

    @router.get("/breaks")
    @router.get("/api/breaks")
    def breaks() -> None:
        raise RuntimeError("a secret detail")

    @router.get("/mistake")
    @router.get("/api/mistake")
    def mistake(depth: int = 1) -> None:
        raise UserError("The depth is too much. Take less.")

    app.include_router(router)
    return app


@pytest.fixture
def anyone(app: FastAPI) -> TestClient:
    return TestClient(app, base_url=ADDRESS, follow_redirects=False)


@pytest.fixture
def keys(empty: Home) -> Keys:
    return open_keys(empty)[0]


def signed_in(client: TestClient, keys: Keys) -> TestClient:
    """A browser that opened the address with the token."""
    assert client.get("/", params={"token": keys.token}).status_code == 303
    client.headers.update(SAME_SITE)
    return client


@pytest.mark.parametrize(("method", "path"), [
    ("GET", "/"), ("GET", "/static/style.css"), ("GET", "/static/nothing.css"), ("GET", "/nowhere"), ("GET", "/breaks"),
    ("GET", "/api/breaks"), ("GET", "/mistake"), ("GET", "/mistake?depth=x"), ("POST", "/vote"), ("POST", "/"),
    ("GET", "/api/openapi.json"), ("OPTIONS", "/vote"), ("TRACE", "/"), ("GET", "/?token=wrong"),
    ("POST", "/static/style.css")])
def test_every_answer_has_the_headers(anyone: TestClient, method: str, path: str) -> None:
    headers = anyone.request(method, path).headers
    assert headers["content-security-policy"] == (
        "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert "cache-control" in headers


def test_a_page_opts_into_scripts(anyone: TestClient, app: FastAPI) -> None:
    page = app.state.site.page("error.html", script=True, title="x", message="y")
    assert page.headers["content-security-policy"].endswith("; script-src 'self'; connect-src 'self'")


def test_files_may_be_kept_for_good_when_named_by_their_content(anyone: TestClient, app: FastAPI) -> None:
    page = anyone.get("/sign-in").text
    address = page.split('rel="stylesheet" href="')[1].split('"')[0]
    kept = anyone.get(address)
    assert "immutable" in kept.headers["cache-control"]
    etag = anyone.get("/static/style.css").headers["etag"]
    assert anyone.get("/static/style.css", headers={"if-none-match": etag}).status_code == 304


@pytest.mark.parametrize("path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py",
                                  "/static//etc/passwd", "/static/%00", "/static/....//app.py"])
def test_no_path_leaves_the_static_files(anyone: TestClient, path: str) -> None:
    assert anyone.get(path).status_code == 404


def test_errors_are_pages_without_a_traceback(anyone: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    for path, status, words in (("/breaks", 500, "Something went wrong"), ("/nowhere", 404, "nothing at this address"),
                                ("/mistake", 400, "The depth is too much. Take less."),
                                ("/mistake?depth=x", 422, "depth: Input should be a valid integer")):
        with caplog.at_level(logging.ERROR):
            answer = anyone.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "text/html; charset=utf-8")
        assert words in answer.text
        assert "secret detail" not in answer.text
        assert "Traceback" not in answer.text
    assert "a secret detail" in caplog.text  # the log has it


def test_errors_of_the_api_are_json(anyone: TestClient) -> None:
    assert anyone.get("/api/mistake").json() == {"detail": "The depth is too much. Take less."}
    assert anyone.get("/api/nowhere").json()["detail"].startswith("There is nothing")
    assert anyone.get("/api/breaks").status_code == 500
    assert "secret" not in anyone.get("/api/breaks").text


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json"])
def test_the_usual_documentation_pages_are_off(anyone: TestClient, path: str) -> None:
    assert anyone.get(path).status_code == 404


def test_the_api_describes_itself(anyone: TestClient) -> None:
    assert "/api/health" in anyone.get("/api/openapi.json").json()["paths"]


class TestToken:
    """What changes something needs it."""

    def test_is_made_once_and_only_the_owner_can_read_it(self, tmp_path: object, empty: Home) -> None:
        first, made = open_keys(empty)
        again, made_again = open_keys(empty)
        assert (made, made_again, first) == (True, False, again)
        assert stat.S_IMODE((empty.folder / "token").stat().st_mode) == 0o600
        assert len(first.token) >= 43  # 32 bytes

    def test_two_starts_at_once_agree(self, empty: Home) -> None:
        found: list[str] = []
        threads = [threading.Thread(target=lambda: found.append(open_keys(empty)[0].token)) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(found)) == 1

    def test_a_broken_file_is_a_mistake_to_put_right(self, empty: Home) -> None:
        empty.folder.mkdir(exist_ok=True)
        (empty.folder / "token").write_text("short\n")
        with pytest.raises(UserError, match="Delete it"):
            open_keys(empty)

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
    def test_without_it_nothing_changes(self, anyone: TestClient, method: str) -> None:
        answer = anyone.request(method, "/api/anything")
        assert answer.status_code == 403
        assert "needs the token" in answer.json()["detail"]

    @pytest.mark.parametrize("header", ["authorization", "x-plumbline-token"])
    def test_a_program_sends_it_in_a_header(self, anyone: TestClient, keys: Keys, header: str) -> None:
        value = f"Bearer {keys.token}" if header == "authorization" else keys.token
        assert anyone.post("/api/anything", content=b"abc", headers={header: value}).json() == 3

    @pytest.mark.parametrize("token", ["", "wrong", "ü" * 43, "\udc80", "x" * 100_000])
    def test_a_wrong_one_says_no_more_than_that(self, anyone: TestClient, keys: Keys, token: str) -> None:
        wrong = anyone.post("/api/anything", headers={b"x-plumbline-token": token.encode("utf-8", "surrogateescape")})
        near = anyone.post("/api/anything", headers={"x-plumbline-token": keys.token[:-1] + "~"})
        assert (wrong.status_code, near.status_code) == (403, 403)
        assert wrong.json() == near.json()
        assert keys.token[:8] not in near.text

    def test_derived_values_are_not_tokens(self, anyone: TestClient, keys: Keys) -> None:
        for value in (keys.cookie, keys.form):
            assert anyone.post("/api/anything", headers={"authorization": f"Bearer {value}"}).status_code == 403

    def test_the_printed_address_signs_a_browser_in_and_forgets_the_token(self, anyone: TestClient, keys: Keys) -> None:
        answer = anyone.get("/runs", params={"token": keys.token, "q": "a b"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/runs?q=a+b")
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Path=/" in cookie
        assert keys.token not in cookie

    def test_signing_in_never_leads_elsewhere(self, anyone: TestClient, keys: Keys) -> None:
        for path in ("//example.org/", "/\\example.org/", "///example.org"):
            location = anyone.get(f"{ADDRESS}{path}?token={keys.token}").headers["location"]
            assert not location.startswith(("//", "/\\"))

    def test_a_page_can_take_it_too(self, anyone: TestClient, keys: Keys) -> None:
        assert anyone.post("/sign-in", data={"token": "wrong"}).status_code == 403
        answer = anyone.post("/sign-in", data={"token": f" {keys.token} "}, headers=SAME_SITE)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        assert "You are signed in" in anyone.get("/sign-in").text

    def test_a_signed_in_browser_sends_what_its_page_holds(self, anyone: TestClient, keys: Keys) -> None:
        browser = signed_in(anyone, keys)
        assert browser.post("/vote", data={"token": keys.form, "choice": "A", "why": "ä & b"}).json() == {
            "choice": "A", "why": "ä & b"}
        assert browser.put("/api/anything", headers={"x-plumbline-token": keys.form}).status_code == 200

    @pytest.mark.parametrize("other", ['prefs={"theme":"dark"}', "a@b=1", "x", "=y", 'q="', "b\xe4d=1"])
    def test_malformed_cookies_of_other_applications_do_no_harm(self, anyone: TestClient, keys: Keys,
                                                                other: str) -> None:
        for cookies in (f"{other}; {keys.cookie_name}={keys.cookie}", f"{keys.cookie_name}={keys.cookie}; {other}"):
            headers = {"cookie": cookies.encode("latin-1"), **SAME_SITE}
            assert anyone.post("/vote", data={"token": keys.form, "choice": "A"}, headers=headers).status_code == 200

    def test_the_cookie_alone_is_not_enough(self, anyone: TestClient, keys: Keys) -> None:
        browser = signed_in(anyone, keys)
        assert browser.post("/vote", data={"choice": "A"}).status_code == 403
        assert browser.post("/vote", data={"choice": "A", "token": "guess"}).status_code == 403
        assert browser.post("/vote", data={"choice": "A", "token": ""}).status_code == 403

    def test_what_a_page_holds_is_not_enough_without_the_cookie(self, anyone: TestClient, keys: Keys) -> None:
        assert anyone.post("/vote", data={"token": keys.form}, headers=SAME_SITE).status_code == 403
        assert anyone.post("/vote", data={"token": keys.token}, headers=SAME_SITE).status_code == 403

    def test_only_a_signed_in_visitor_sees_the_form_value(self, anyone: TestClient, app: FastAPI, keys: Keys) -> None:
        assert keys.form not in anyone.get("/sign-in").text
        assert app.state.site.templates.from_string("{{ form_token() }}").render() == (
            '<input type="hidden" name="token" value="">')
        security.visitor.set(keys.form)
        assert keys.form in app.state.site.templates.from_string("{{ form_token() }}").render()
        security.visitor.set("")


class TestOrigin:
    """Other sites' pages cannot act for a signed-in person."""

    @pytest.mark.parametrize("headers", [
        {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"sec-fetch-site": "none"},
        {"origin": "http://example.org"}, {"origin": "null"}, {"origin": "http://127.0.0.1:4281"},
        {"origin": "https://127.0.0.1"}, {"sec-fetch-site": "same-origin", "origin": "http://example.org"}])
    def test_is_refused(self, anyone: TestClient, keys: Keys, headers: dict[str, str]) -> None:
        browser = signed_in(anyone, keys)
        for name in SAME_SITE:
            del browser.headers[name]
        answer = browser.post("/vote", data={"token": keys.form, "choice": "A"}, headers=headers)
        assert answer.status_code == 403
        assert "another site" in answer.text
        bearer = {"authorization": f"Bearer {keys.token}", **headers}
        assert browser.post("/api/anything", headers=bearer).status_code == 403

    def test_a_browser_that_says_nothing_of_its_origin_is_refused(self, anyone: TestClient, keys: Keys) -> None:
        browser = signed_in(anyone, keys)
        for name in SAME_SITE:
            del browser.headers[name]
        assert browser.post("/vote", data={"token": keys.form}).status_code == 403

    def test_a_proxy_in_front_may_speak_tls(self, anyone: TestClient, keys: Keys) -> None:
        browser = signed_in(anyone, keys)
        origin = {"origin": ADDRESS.replace("http:", "https:")}
        assert browser.post("/vote", data={"token": keys.form}, headers=origin).status_code == 200

    @pytest.mark.parametrize("header", ["sec-fetch-site", "origin"])
    def test_one_sign_of_the_same_origin_will_do(self, anyone: TestClient, keys: Keys, header: str) -> None:
        browser = signed_in(anyone, keys)
        del browser.headers[header]
        assert browser.post("/vote", data={"token": keys.form}).status_code == 200


class TestHost:
    """A foreign name that leads here does not let a web page in."""

    @pytest.mark.parametrize("host", ["127.0.0.1:4280", "localhost:4280", "LOCALHOST", "[::1]:4280", "192.168.1.7:80",
                                      socket.gethostname()])
    def test_ours(self, anyone: TestClient, host: str) -> None:
        assert anyone.get("/api/health", headers={"host": host}).status_code == 200

    @pytest.mark.parametrize("host", ["example.org", "127.0.0.1.example.org", "localhost.example.org:4280", "",
                                      "127.0.0.1@example.org", "a b", "1.2.3", "localhost:x"])
    def test_not_ours(self, anyone: TestClient, host: str) -> None:
        answer = anyone.get("/api/health", headers={"host": host})
        assert answer.status_code == 400
        assert "names the host" in answer.json()["detail"]

    def test_the_name_that_it_was_started_with(self, empty: Home) -> None:
        client = TestClient(create_app(empty, ["plumbline.internal"]), base_url="http://plumbline.internal")
        assert client.get("/api/health").status_code == 200


class TestBody:
    """A request has a largest size, whether it says its size or not."""

    def test_the_largest_and_one_more(self, empty: Home, anyone: TestClient) -> None:
        member = login(anyone, empty)
        assert member.post("/api/anything", content=b"x" * security.LARGEST_BODY).json() == security.LARGEST_BODY
        answer = member.post("/api/anything", content=b"x" * (security.LARGEST_BODY + 1))
        assert answer.status_code == 413
        assert "1,000,000 bytes" in answer.json()["detail"]

    def test_in_pieces(self, empty: Home, anyone: TestClient) -> None:
        member = login(anyone, empty)
        assert member.post("/api/anything", content=(b"x" * 1000 for _ in range(1000))).json() == 1_000_000
        assert member.post("/api/anything", content=(b"x" * 1000 for _ in range(1001))).status_code == 413

    def test_many_rows_may_be_larger(self) -> None:
        assert security.largest_body("/api/preferences") == 32_000_000
        assert security.largest_body("/vote") == 1_000_000
        assert security.largest_body("/hooks/argilla") == 2_000_000

    @pytest.mark.parametrize("length", ["-1", "abc", "99999999999999999999", "1e3"])
    def test_a_length_that_cannot_be(self, empty: Home, anyone: TestClient, length: str) -> None:
        answer = login(anyone, empty).post("/api/anything", headers={"content-length": length}, content=b"")
        assert answer.status_code == 413

    def test_what_a_stranger_sends_is_not_read(self, app: FastAPI, keys: Keys) -> None:
        """However much he says that it will be: he is answered while he still sends."""
        form = "content-type: application/x-www-form-urlencoded"
        with served(app) as url:
            place = url.removeprefix("http://")
            for head in ("authorization: Bearer wrong", form, "x: y", f"cookie: {keys.cookie_name}=wrong",
                         f"{form}\r\ncookie: {keys.cookie_name}={keys.cookie}",
                         f"{form}\r\norigin: {url}\r\ncookie: {keys.cookie_name}=wrong"):
                with socket.create_connection((place.split(":")[0], int(place.split(":")[1])), 10) as peer:
                    peer.sendall((f"POST /api/preferences HTTP/1.1\r\nhost: {place}\r\n{head}\r\n"
                                  "content-length: 31000000\r\n\r\n[").encode())
                    assert b" 403 " in peer.recv(100), head

    def test_lengths_that_disagree(self, app: FastAPI, keys: Keys) -> None:
        """A body must not be taken for another request: it is refused, and the connection ends."""
        with served(app) as url:
            host, port = url.removeprefix("http://").split(":")
            with socket.create_connection((host, int(port)), 10) as peer:
                peer.sendall((f"POST /api/anything HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {keys.token}\r\n"
                              "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
                              f"GET /api/health HTTP/1.1\r\nhost: {host}\r\n\r\n").encode())
                answer = b"".join(iter(lambda: peer.recv(10_000), b""))
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1") == 1

    def test_a_form_is_a_form(self, empty: Home, anyone: TestClient) -> None:
        member = login(anyone, empty)
        form = {"content-type": "application/x-www-form-urlencoded"}
        assert member.post("/vote", json={"a": 1}).status_code == 400
        for body in (b"a=1&a=2", b"a=%ff", b"\xff", "&".join(f"f{i}=1" for i in range(501)).encode()):
            assert member.post("/vote", content=body, headers=form).status_code == 400
        assert member.post("/vote", content=b"", headers=form).json() == {}
        assert parse_form(b"a=&b=x+y%0A") == {"a": "", "b": "x y\n"}


class TestWrongTokens:
    """Guessing is slow."""

    def guess(self, client: TestClient, token: str = "wrong") -> int:
        return client.post("/api/anything", headers={"authorization": f"Bearer {token}"}).status_code

    def test_too_many_must_wait(self, anyone: TestClient, keys: Keys) -> None:
        assert [self.guess(anyone) for _ in range(MOST_FAILURES)] == [403] * MOST_FAILURES
        answer = anyone.post("/api/anything", headers={"authorization": "Bearer wrong"})
        assert answer.status_code == 429
        assert 0 < int(answer.headers["retry-after"]) <= 60
        # The right one passes, whoever tried before.
        assert self.guess(anyone, keys.token) == 200
        assert anyone.get("/", params={"token": keys.token}).status_code == 303
        assert anyone.post("/sign-in", data={"token": keys.token}).status_code == 303
        assert self.guess(anyone, keys.token + "x") == 429
        assert anyone.get("/api/health").status_code == 200  # reading goes on

    @pytest.mark.parametrize("site", ["cross-site", "same-site"])
    def test_pictures_on_other_sites_are_no_guesses(self, anyone: TestClient, keys: Keys, site: str) -> None:
        for number in range(MOST_FAILURES + 2):
            answer = anyone.get(f"/?token=wrong{number}", headers={"sec-fetch-site": site})
            assert answer.status_code == 403
        assert self.guess(anyone, "wrong") == 403
        link = anyone.get("/", params={"token": keys.token}, headers={"sec-fetch-site": site})
        assert link.status_code == 303, "a link in a mail signs in"

    def test_who_is_signed_in_goes_on(self, anyone: TestClient, keys: Keys) -> None:
        browser = signed_in(anyone, keys)
        for _ in range(MOST_FAILURES + 1):
            self.guess(browser)
        assert browser.post("/vote", data={"token": keys.form}).status_code == 200

    def test_wrong_cookies_count(self, anyone: TestClient, keys: Keys) -> None:
        wrong = {"cookie": f"{keys.cookie_name}=guess"}
        answers = [anyone.post("/vote", data={"choice": "A"}, headers=wrong) for _ in range(MOST_FAILURES + 1)]
        found = [answer.status_code for answer in answers]
        assert found == [403] * MOST_FAILURES + [429]

    def test_a_request_without_a_token_is_no_guess(self, anyone: TestClient, keys: Keys) -> None:
        for _ in range(MOST_FAILURES + 1):
            assert anyone.post("/api/anything").status_code == 403
        assert self.guess(anyone, keys.token) == 200

    def test_the_wait_ends(self) -> None:
        now = [0.0]
        attempts = Attempts(lambda: now[0])
        for _ in range(MOST_FAILURES):
            assert attempts.wait("here") == 0
            attempts.failed("here")
        assert attempts.wait("here") == 60
        assert attempts.wait("elsewhere") == 0
        now[0] = 59.5
        assert attempts.wait("here") == 1
        now[0] = 60.1
        assert attempts.wait("here") == 0

    def test_memory_is_bounded(self) -> None:
        attempts = Attempts()
        for i in range(5 * MOST_ADDRESSES):
            attempts.failed(f"address {i}")
        assert len(attempts) == MOST_ADDRESSES


class TestPrivate:
    """Where other machines reach it, reading needs the token as well."""

    @pytest.fixture
    def stranger(self, empty: Home) -> TestClient:
        return TestClient(create_app(empty, private=True), base_url=ADDRESS, follow_redirects=False)

    @pytest.mark.parametrize("path", ["/", "/runs", "/data/now", "/feedback/people", "/nowhere", "/models", "//runs"])
    def test_pages_lead_to_the_form_for_it(self, stranger: TestClient, path: str) -> None:
        answer = stranger.get(path)
        assert (answer.status_code, answer.headers["location"], answer.text) == (303, "/sign-in", "")

    @pytest.mark.parametrize("path", ["/api/runs", "/api/openapi.json", "/api/versions", "/api/nowhere"])
    def test_programs_hear_so(self, stranger: TestClient, keys: Keys, path: str) -> None:
        assert stranger.get(path).status_code == stranger.head(path).status_code == 401
        assert "Bearer" in stranger.get(path).json()["detail"]
        assert stranger.get(path, headers={"authorization": "Bearer wrong"}).status_code == 403
        assert stranger.get(path, headers={"authorization": f"Bearer {keys.token}"}).status_code in (200, 404)

    def test_who_signs_in_reads(self, stranger: TestClient, keys: Keys) -> None:
        page = stranger.get("/sign-in")
        assert "To read, to give feedback" in page.text
        assert stranger.get(page.text.split('rel="stylesheet" href="')[1].split('"')[0]).status_code == 200
        assert stranger.get("/api/health").status_code == 200
        assert stranger.post("/sign-in", data={"token": "wrong"}).status_code == 403
        assert stranger.post("/sign-in", data={"token": keys.token}).status_code == 303
        assert stranger.get("/api/runs").status_code == 200

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "plumbline.example", ""])
    def test_which_addresses_others_reach(self, host: str) -> None:
        assert not is_this_machine_alone(host)
        assert all(map(is_this_machine_alone, ("127.0.0.1", "127.8.0.1", "::1", "localhost")))


def test_the_cookie_is_for_tls_alone_where_a_server_in_front_speaks_it(anyone: TestClient, keys: Keys) -> None:
    plain = anyone.get("/", params={"token": keys.token}).headers["set-cookie"]
    behind = anyone.get("/", params={"token": keys.token}, headers={"x-forwarded-proto": "https"})
    assert "Secure" not in plain
    assert behind.headers["set-cookie"] == f"{plain}; Secure"


@pytest.mark.parametrize("path", ["/sign-in", "/api/health", "/static/style.css", "/nowhere", "/breaks"])
def test_the_head_of_an_answer_is_that_of_the_answer(anyone: TestClient, path: str) -> None:
    whole, head = anyone.get(path), anyone.head(path)
    assert (head.status_code, head.content) == (whole.status_code, b"")
    assert dict(head.headers) == dict(whole.headers)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said(app: FastAPI, anyone: TestClient, keys: Keys, number: int) -> None:
    @app.post("/api/full")
    def full() -> None:
        raise OSError(number, os.strerror(number), "rows.jsonl")

    answer = anyone.post("/api/full", headers={"authorization": f"Bearer {keys.token}"})
    assert answer.status_code == 507
    assert answer.json()["detail"].startswith("The disk is full: rows.jsonl could not be written. Make room")


def test_a_webhook_has_checks_of_its_own(anyone: TestClient) -> None:
    assert anyone.post("/hooks/test", content=b"abc", headers={"origin": "http://example.org"}).json() == 3
    assert anyone.post("/hooks/test", headers={"host": "example.org"}).status_code == 400
    assert anyone.post("/hooks/../vote").status_code == 403


def test_a_real_server_stops_reading_what_is_too_large(app: FastAPI, keys: Keys) -> None:
    sent = 0

    def pieces() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(2000):
            sent += 100_000
            yield b"x" * 100_000

    with served(app) as url:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
        try:
            connection.request("POST", "/api/anything", pieces(), {"authorization": f"Bearer {keys.token}"},
                               encode_chunked=True)
            assert connection.getresponse().status == 413
        except (BrokenPipeError, ConnectionResetError):
            pass  # the server has hung up while we were still sending
        finally:
            connection.close()
    assert sent < 50_000_000


def test_a_little_too_large_hears_so(app: FastAPI, keys: Keys) -> None:
    with served(app) as url:
        answer = httpx.post(f"{url}/api/anything", content=(b"x" * 100_000 for _ in range(15)),
                            headers={"authorization": f"Bearer {keys.token}"})
    assert answer.status_code == 413


def test_the_cookie_survives_a_restart(empty: Home, keys: Keys) -> None:
    first = signed_in(visit(empty), keys)
    second = visit(empty)
    second.cookies = first.cookies
    second.headers.update(SAME_SITE)
    assert "You are signed in" in second.get("/sign-in").text
