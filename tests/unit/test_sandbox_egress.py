"""Which hosts a tool that is shut in can reach, whatever it writes."""

from __future__ import annotations

import ipaddress

import pytest

from handrail.sandbox.egress import Refused, checked, is_inner, is_listed, parse

HOSTS = ("api.example.com:443", "*.example.org:443", "[2001:db8::1]:80", "127.0.0.1:8000", "localhost:9000")
OUTER = "93.184.215.14"


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("api.example.com", 443),
        ("API.Example.COM.", 443),
        ("a.example.org", 443),
        ("a.b.example.org", 443),
        ("2001:db8::1", 80),
        ("[2001:DB8:0::1]", 80),
        ("127.0.0.1", 8000),
        ("localhost", 9000),
    ],
)
def test_what_is_listed(host: str, port: int) -> None:
    assert is_listed(host, port, HOSTS)


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("api.example.com", 80),
        ("xapi.example.com", 443),
        ("api.example.com.evil.net", 443),
        ("example.org", 443),
        ("evilexample.org", 443),
        ("a.example.org.evil.net", 443),
        ("*.example.org", 80),
        ("127.1", 8000),
        ("2130706433", 8000),
        ("0177.0.0.1", 8000),
        ("0x7f.0.0.1", 8000),
        ("::ffff:127.0.0.1", 8000),
        ("127.0.0.1", 9000),
        ("", 443),
    ],
)
def test_what_is_not_listed(host: str, port: int) -> None:
    assert not is_listed(host, port, HOSTS)


@pytest.mark.parametrize(
    "text",
    [
        *("127.0.0.1", "127.255.255.254", "::1", "0.0.0.0", "0.1.2.3", "::", "169.254.169.254"),
        "169.254.170.2",
        *("fe80::1", "224.0.0.1", "ff02::1", "240.0.0.1", "255.255.255.255", "fd00:ec2::254"),
        "100.100.100.200",
        *("168.63.129.16", "192.0.0.192", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1"),
        *("64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a9fe:a9fe::1", "64:ff9b:1::7f00:1", "::7f00:1"),
    ],
)  # fmt: skip
def test_what_is_inner(text: str) -> None:
    assert is_inner(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", [OUTER, "10.0.0.1", "192.168.1.1", "2606:2800::1", "64:ff9b::5db8:d70e"])
def test_what_is_not_inner(text: str) -> None:
    assert not is_inner(ipaddress.ip_address(text))


def test_a_name_that_leads_inside_is_refused() -> None:
    for found in (["127.0.0.1"], ["169.254.169.254"], ["::ffff:127.0.0.1"], ["fe80::1%eth0"], []):
        with pytest.raises(Refused):
            checked("api.example.com", 443, HOSTS, lambda _h, _p, found=found: found)  # type: ignore[misc]
    assert checked("api.example.com", 443, HOSTS, lambda _h, _p: ["127.0.0.1", OUTER]) == [OUTER]


def test_an_inner_address_is_reached_where_it_is_listed_itself() -> None:
    assert checked("127.0.0.1", 8000, HOSTS, lambda _h, _p: ["127.0.0.1"]) == ["127.0.0.1"]
    assert checked("localhost", 9000, HOSTS, lambda _h, _p: ["::1", "127.0.0.1"]) == ["::1", "127.0.0.1"]
    with pytest.raises(Refused):
        checked("localhost", 9000, HOSTS, lambda _h, _p: ["169.254.169.254"])


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"CONNECT",
        b"CONNECT  HTTP/1.1",
        b"CONNECT api.example.com HTTP/1.1",
        b"CONNECT api.example.com:x HTTP/1.1",
        b"CONNECT api.example.com:99999 HTTP/1.1",
        b"CONNECT [::1:443 HTTP/1.1",
        b"CONNECT :443 HTTP/1.1",
        b"CONNECT api.example.com:443 HTTP/2",
        b"CONNECT api.example.com:443 SSH",
        b"GET / HTTP/1.1\r\nHost: api.example.com",
        b"GET https://api.example.com/ HTTP/1.1",
        b"GET ftp://api.example.com/ HTTP/1.1",
        b"GET http:///x HTTP/1.1",
        b"GET http://a:0x50/ HTTP/1.1",
        b"\x16\x03\x01\x02\x00\x01",
        b"\xff\xfe \xff \xff",
    ],
)
def test_what_is_no_request_to_a_proxy(head: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(head)


def test_what_is_asked_for_is_what_is_connected_to() -> None:
    cases = {
        b"CONNECT api.example.com:443 HTTP/1.1": ("api.example.com", 443),
        b"CONNECT a@b:443 HTTP/1.1": ("b", 443),
        b"CONNECT [::1]:443 HTTP/1.1": ("::1", 443),
        b"GET http://u:p@evil.net/ HTTP/1.1": ("evil.net", 80),
        b"GET http://api.example.com@evil.net:81/ HTTP/1.1": ("evil.net", 81),
        b"GET http://api.example.com#@evil.net/ HTTP/1.1": ("api.example.com", 80),
        b"GET http://evil.net\\@api.example.com/ HTTP/1.1": ("api.example.com", 80),
    }
    for head, wanted in cases.items():
        request = parse(head)
        assert (request.host, request.port) == wanted


def test_the_head_that_is_sent_on_is_for_the_host_that_was_checked() -> None:
    lines = ["GET http://u:p@api.example.com:8080/a?b HTTP/1.1", "Host: evil.net", "host : evil.net"]
    lines += ["Proxy-Authorization: x", "Connection: keep-alive", "Accept: */*"]
    sent = parse("\r\n".join(lines).encode()).head.decode()
    assert sent.startswith("GET /a?b HTTP/1.1\r\nHost: api.example.com:8080\r\nConnection: close\r\n")
    assert "evil" not in sent
    assert "u:p" not in sent
    assert "Accept: */*" in sent
