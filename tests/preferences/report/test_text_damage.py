"""Damage is found where it is, and honest texts of many languages are left in peace."""

import pytest

from plumbline.preferences.report.text_damage import script_of, troubles_of
from testing.reported import judged, reported

HONEST = {
    "french": "« L’été où j’ai reçu ça… » — c’était à Noël, près d’un château. Où ? Là-bas !",
    "german": "„Das ist groß“, sagte er … Straße, Äpfel, Öl, Übung; „daß“ – so schrieb man früher.",
    "portuguese": "NÃO! A maçã, o pão — “coração”, à noite, três irmãs, às 5°.",
    "spanish": "¿Qué pasó, Ñandú? ¡El año pasado cumplió 20º! «Sí»",
    "swedish": "Åsa åt ”räksmörgås” på Öland – är det så? Å, ja.",
    "turkish": "Şu çay’ı iç; Ğ, İ, ı. “Öğle” – ÇOK güzel…",
    "russian": "Привет, мир! Как дела?", "chinese": "你好，世界。", "arabic": "مرحبا بالعالم",
    "maths": "5 × 3 ± 2 < 7 && a &lt b; if x<y and z>1: f(<T>)", "emoji": "Well done 🎉👍🏽 — “yes”…",
    "code": "for (i = 0; i < n; i++) { a[i] &= b; }\r\n\tvector<int> v;", "plain": "a\tb\nc\r\n",
}
WORDS = ("café au lait", "naïve façade", "“quoted”", "it’s", "wait – what", "Übergröße", "mañana", "привет", "γειά",
         "日本語", "中文字", "🎉 party", "5 €… yes", "x\u00a0y")


@pytest.mark.parametrize("text", HONEST.values(), ids=HONEST)
def test_honest_texts_have_no_trouble(text):
    assert list(troubles_of(text)) == []


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("read_as", ["latin-1", "cp1252"])
def test_utf8_read_in_a_western_encoding_is_recognised(word, read_as):
    try:
        damaged = word.encode().decode(read_as)
    except UnicodeDecodeError:
        pytest.skip("Windows-1252 does not know these bytes")
    assert "mojibake" in dict(troubles_of(f"He said: {damaged} and left."))


@pytest.mark.parametrize(("text", "expected"), [
    ("ends \ufffd here", {"replacement character": 5}), ("bell \x07", {"control character": 5}),
    ("é next line \x85", {"control character": 12}), ("Tom &amp; Jerry", {"HTML entity": 4}),
    ("it&#39;s &#x27;", {"HTML entity": 2}), ("one<br/>two", {"HTML tag": 3}),
    ('<p class="x">hi</p>', {"HTML tag": 0}), ("&nbsp;<b>", {"HTML entity": 0, "HTML tag": 6})])
def test_trouble_is_named_with_its_place(text, expected):
    assert dict(troubles_of(text)) == expected


@pytest.mark.parametrize(("text", "script"), [
    ("Hello", "Latin"), ("Ça va déjà", "Latin"), ("Tiếng Việt", "Latin"), ("Привет, world", "Cyrillic"),
    ("Γειά", "Greek"), ("שלום", "Hebrew"), ("مرحبا", "Arabic"), ("नमस्ते", "Devanagari"), ("สวัสดี", "Thai"),
    ("你好吗", "Han or Kana"), ("こんにちは", "Han or Kana"), ("안녕하세요", "Hangul"), ("ሰላም ለዓለም", "other"),
    ("42 + 1 = 43", "no letters"), ("… — 🎉", "no letters"), ("", "no letters")])
def test_the_script_is_that_of_most_letters(text, script):
    assert script_of(text) == script


def test_trouble_is_counted_by_source_with_one_example_of_each():
    rows = [judged("A", "ada", ("It is a cafÃ©.", "fine"), "Good question", "scraped"),
            judged("A", "ada", ("привет", "fine"), "Good question", "clean")]
    found = reported(rows)
    assert found["texts"]["scraped"] == {"texts": 3, "damaged": 1, "scripts": {"Latin": 3},
                                         "trouble": {"mojibake": {"share": pytest.approx(1 / 3), "n": 3}}}
    assert found["texts"]["clean"] == {"texts": 3, "damaged": 0, "trouble": {}, "scripts": {"Latin": 2, "Cyrillic": 1}}
    assert found["trouble_examples"] == {"mojibake": {"source": "scraped", "around": "It is a cafÃ©."}}
