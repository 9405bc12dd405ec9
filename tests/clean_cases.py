"""Documents for the tests of cleaning: for each rule, what it must drop and what it must leave alone."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import polars as pl

from tokpack.stages.normalize.documents import DOCUMENT_SCHEMA

Message = tuple[str | None, str | None]


class Doc(NamedTuple):
    messages: list[Message]
    kind: str = "chat"
    extra: str | None = None


def ask(prompt: str, answer: str | None) -> Doc:
    return Doc([("user", prompt), ("assistant", answer)])


def text(content: str) -> Doc:
    return Doc([("text", content)], kind="text")


def documents(docs: list[Doc]) -> pl.DataFrame:
    """As `normalize` makes them."""
    rows: list[dict[str, Any]] = [
        {
            "doc_id": number,
            "source": 0,
            "row": number + 1,
            "kind": doc.kind,
            "roles": [role for role, _ in doc.messages],
            "contents": [content for _, content in doc.messages],
            "extra": doc.extra,
            "drop_reason": None,
            "drop_detail": None,
        }
        for number, doc in enumerate(docs)
    ]
    return pl.DataFrame(rows, schema=DOCUMENT_SCHEMA)


TOWER = "   /\\\n  /  \\\n" + "  |  |\n" * 60 + " _|__|_\n一座高塔，塔顶是尖的，塔底有两扇门。"
FLOWCHART = "".join(
    f"    ┌──────────┐\n    │  {step}  │\n    └──────────┘\n         │\n         ▼\n"
    for step in ("开始步骤", "检查数据", "检查数据", "检查数据", "写入结果") * 6
)
FORM = "| 姓名 | 年龄 | 城市 |\n|------|------|------|\n" + "|      |      |      |\n" * 40
MARKS = "| 题号 | 结果 |\n|---|---|\n" + "".join(
    f"| 第{n}题 | 正确 |\n| 备注 | 没有需要说明的 |\n| 备注 | 没有需要补充的 |\n" for n in range(1, 30)
)
PIPES = "graph:\n" + "".join(f"  step {n}\n     |\n     v\n" for n in range(15)) + "     |\n     v\n" * 15
"""Drawings, flowcharts and tables: lines that recur by their nature."""


class Cases(NamedTuple):
    drop: list[Doc]
    keep: list[Doc]
    options: Mapping[str, Any] = MappingProxyType({})


def latin1(string: str) -> str:
    return string.encode("utf-8").decode("latin-1")


def cp1252(string: str) -> str:
    """As browsers do it: the five bytes that Windows-1252 leaves open are control characters."""
    return "".join(
        bytes([b]).decode("cp1252") if b not in (0x81, 0x8D, 0x8F, 0x90, 0x9D) else chr(b)
        for b in string.encode("utf-8")
    )


CALLS = '{"messages": [{}, {"tool_calls": [{"type": "function", "function": {"name": "weather"}}]}]}'
GERMAN = "Über den Dächern von München glüht die Sonne; die Bäume stehen schön im späten Grün."
FRENCH = "Où était-il déjà allé ? À l'hôtel, où le café crème coûtait très cher, il a été déçu."
RUSSIAN = "Привет! Как дела? Сегодня в Москве хорошая погода, и мы идём гулять в парк."
ARABIC = "مرحبا! كيف حالك اليوم؟ الطقس جميل في القاهرة وسنذهب إلى الحديقة."
CHINESE = "今天天气很好，我们去公园散步吧。你觉得怎么样？"
JAPANESE = "今日はとても良い天気ですね。公園まで散歩に行きましょう。"
MENU = '<nav><ul><li><a href="/">Home</a></li><li><a href="/shop">Shop</a></li></ul></nav>'
PAGE = (
    '<!DOCTYPE html>\n<html><head><title>Opening hours</title><script>track("x", 1);</script></head><body>\n'
    f'{MENU}\n<div class="cookie">We use cookies. <button>Accept</button></div>\n'
    "<p>We are open from nine to five.</p>\n"
    "<footer>&copy; 2020 Acme. All rights reserved.</footer></body></html>"
)
FRAGMENT = (
    f'{MENU}<div id="c">Diese Seite verwendet Cookies. <a href="/datenschutz">Datenschutz</a></div>'
    "<p>Wir haben von neun bis fünf geöffnet.</p><footer>© 2020 Acme. Alle Rechte vorbehalten.</footer>"
)
TABLE = "| day | open | close |\n|-----|------|-------|\n" + "\n".join(
    f"| {day} | 09:00 | 17:00 |" for day in ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
)
JAVA = "public class Car {\n" + "".join(
    f"    private int {name};\n\n"
    f"    public int get{name.title()}() {{\n        return this.{name};\n    }}\n\n"
    f"    public void set{name.title()}(int {name}) {{\n        this.{name} = {name};\n    }}\n\n"
    for name in ("speed", "weight", "price", "year", "seats", "doors", "wheels", "power")
)
SQL = "\n".join(
    f"INSERT INTO users (name, age, city) VALUES ('user{n}', {20 + n}, 'Paris');" for n in range(40)
)
SUMS = "\n".join(
    f"In month {n} she saves {n} * 12 = <<{n}*12={n * 12}>>{n * 12} dollars." for n in range(1, 13)
)
LATEX = r"\[ \int_0^1 x^2 \, dx = [\frac{x^3}{3}]_0^1 = \frac{1}{3}, \sum_{k=1}^n k = \frac{n(n+1)}{2}\]"
REFRAIN = "\n".join(
    f"{n} green bottles hanging on the wall,\nIf one green bottle should fall," for n in range(10, 0, -1)
)
SQUARES = "[" + ",\n ".join("[" + ", ".join("0" * 8) + "]" for _ in range(8)) + "]"

CASES: dict[str, Cases] = {
    "unknown_role": Cases(
        drop=[
            Doc([("user", "Hi"), ("narrator", "It is dark."), ("assistant", "Hello")]),
            Doc([("user", "Hi"), (None, "Hello")]),
        ],
        keep=[
            Doc([("system", "s"), ("developer", "d"), ("user", "u"), ("assistant", "a"), ("tool", "t")]),
            text("narrator: It is dark."),
        ],
    ),
    "null_content": Cases(
        drop=[
            ask("Hi", None),
            Doc([("user", None), ("assistant", "Hello")]),
            Doc(
                [("user", "Weather?"), ("assistant", None), ("user", "And?"), ("assistant", None)],
                extra=CALLS,
            ),
            Doc([("user", "Weather?"), ("user", None), ("assistant", "Rain.")], extra=CALLS),
        ],
        keep=[
            ask("Hi", "null"),
            ask("Hi", ""),
            Doc([("user", "Weather?"), ("assistant", None)], extra=CALLS),
        ],
    ),
    "no_answer": Cases(
        drop=[Doc([("user", "Hi")]), Doc([("system", "Be brief."), ("user", "Hi")]), Doc([])],
        keep=[ask("Hi", "Hello"), text("Once upon a time"), ask("Hi", "")],
    ),
    "empty_answer": Cases(
        drop=[
            ask("Hi", ""),
            ask("Hi", " \n\t\u00a0\u3000"),
            text("\n"),
            Doc([("user", "a"), ("assistant", ""), ("user", "b"), ("assistant", "B")]),
            Doc([("user", "Weather?"), ("assistant", ""), ("tool", "rain"), ("assistant", "")], extra=CALLS),
            Doc([("user", "Weather?"), ("assistant", "")], extra=CALLS.replace("calls", "calls_of")),
        ],
        keep=[
            ask("2 + 2", "4"),
            ask("", "Hello"),
            ask("Space?", "` `"),
            Doc([("user", "Weather?"), ("assistant", "")], extra=CALLS),
        ],
    ),
    "prompt_equals_answer": Cases(
        drop=[
            ask("Write a poem about the sea.", "Write a poem about the sea."),
            ask(f"{GERMAN}\n", f"  {GERMAN}"),
            ask(CHINESE, CHINESE),
            Doc([("user", "a"), ("assistant", "A"), ("user", JAVA), ("assistant", JAVA)]),
        ],
        keep=[
            ask("Good morning!", "Good morning!"),
            ask(f"Correct this: {GERMAN}", GERMAN),
            ask("你好！", "你好！"),
            text(GERMAN),
            Doc([("assistant", GERMAN)]),
        ],
    ),
    "mojibake": Cases(
        drop=[
            *(ask("Hi", latin1(t)) for t in (GERMAN, FRENCH, RUSSIAN, ARABIC, CHINESE, JAPANESE)),
            *(ask("Hi", cp1252(t)) for t in (GERMAN, FRENCH, RUSSIAN, ARABIC, CHINESE, JAPANESE)),
            ask("Hi", cp1252("It’s “fine”, isn’t it? That’s what they’d say, don’t you think?")),
            ask("Hi", cp1252(cp1252(FRENCH))),
            ask("Hi", RUSSIAN.encode("utf-8").decode("cp1251", "ignore")),
            ask("Hi", GERMAN.encode("latin-1").decode("utf-8", "replace")),
            ask(latin1(JAPANESE), "Yes."),
            text(latin1(RUSSIAN)),
        ],
        keep=[
            *(ask("Hi", t) for t in (GERMAN, FRENCH, RUSSIAN, ARABIC, CHINESE, JAPANESE)),
            ask("Sag drei Wörter", "„Spaß“, „Fuß“, „Maß“, „groß“ und «Straß» – „Ä“, „Ö“ und „Ü“."),
            ask(
                "Dis",
                "Il a dit «\u00a0aimé\u00a0», «\u00a0publié\u00a0», «\u00a0doré\u00a0», «\u00a0né\u00a0» !",
            ),
            ask("Où ?", "Au café… au ciné—là-bas… à côté”, été’, thé«."),
            ask("Norsk?", "Å være – «Å», «Ø» og «Æ»: ÅRLIG, ØST–VEST, FØR–ETTER, ÆRE."),
            ask("Português?", "NÃO, SÃO, MAÇÃ, PÃO: não, são, maçã. ¿Ñ? ESPAÑA·ÑU."),
            ask("Tiếng Việt?", "Tôi đã ăn ở Hà Nội, và cà phê rất ngon. Ông ấy ở Đà Nẵng."),
            ask("Türkçe?", "İstanbul’da öğle yemeği yedik; “güzel”di… Şişli’de, Üsküdar’da."),
            ask("Ukrainian", "Сіль, рік, Різдво, Січень, РІК, «Рідна мова», Сєвєродонецьк."),
            ask("E?", LATEX + " ± × ÷ ° µ ½ ¼ ² ³ § ¶ © ® ™ € £ ¥"),
            ask(
                "Why does Ã© stand there?", "UTF-8 read as Latin-1: Ã© for é, Ã¼ for ü, â€™ for ’, Ã± for ñ."
            ),
            ask(
                "Story",
                " ".join(f"House {n} is built of stone." for n in range(40))
                + " It cost Â£60 and Â£70 and Â£80.",
            ),
        ],
    ),
    "html_boilerplate": Cases(
        drop=[
            ask("When are you open?", PAGE),
            ask("Wann habt ihr geöffnet?", FRAGMENT),
            ask("Add 2 and 3.", "5\n" + PAGE),
            ask("My name is Vera Weber. When are you open?", PAGE),
            text(PAGE),
            Doc([("user", "Hi"), ("assistant", PAGE), ("user", "Thanks"), ("assistant", "Bye")]),
        ],
        keep=[
            ask("Write an HTML page for my shop.", PAGE),
            ask("Build me a landing page with a cookie notice.", PAGE),
            ask("Erstelle eine Website für meinen Laden.", PAGE),
            ask("帮我做一个网站。", PAGE),
            ask("Нужен сайт для магазина.", PAGE),
            ask("Fix this: <div><p>Hi</div>", PAGE),
            ask("Make a login form for my shop.", PAGE),
            ask("When are you open?", f"This is what it looks like:\n```html\n{PAGE}\n```\nGood luck!"),
            ask("When are you open?", f"Here is the page:\n\n{PAGE}"),
            ask(
                "How do I bold?",
                "Use `<b>`, `<strong>`, `<nav>` or `<footer>`; cookies and &copy; do not matter.",
            ),
            ask("Cookies?", "Bake the cookies.<br>\n<b>Login</b> is not needed. <i>All rights reserved.</i>"),
            ask(
                "Show it in React.",
                "return (\n  <div>\n    <h1>Cookies</h1>\n    <p>Sign in</p>\n  </div>\n);",
            ),
            ask("Compare", "if a < b and c > d: print('<ul>') # </ul>"),
            ask("XML?", "<cookie><login>a</login></cookie>" * 5),
            text("We use cookies. Privacy policy. All rights reserved. Subscribe to our newsletter. Log in."),
        ],
    ),
    "repetition": Cases(
        drop=[
            ask("Draw", "|  |  |\n" * 200),
            ask("Hi", "a" * 200),
            ask("Hi", "!" * 300),
            ask("Hi", "Sure, I can. " + "I can. I can. " * 40),
            ask("Hi", "The train to Geneva" + " to Geneva" * 60),
            ask("你好", "今天" + "天气很好，" * 50),
            ask("Привет", "Это " + "очень " * 80),
            ask("مرحبا", "هذا " + "جدا جدا " * 60),
            ask("Hi", "\n".join(["Step 5: ask Emil at the post office."] * 25)),
            ask(
                "Hi",
                "\n".join("All work and no play.\nNo.\nNever say never again."[:n] for n in (21, 25) * 30),
            ),
            ask("Hi", f"{JAVA}\n" + "    } else if (x) {\n        return x;\n" * 80),
            Doc([("user", "Hi"), ("assistant", "no " * 90), ("user", "What?"), ("assistant", "Sorry.")]),
            text("buy now " * 100),
        ],
        keep=[
            *(
                ask("Hi", t)
                for t in (TABLE, JAVA, SQL, SUMS, LATEX, REFRAIN, SQUARES, GERMAN * 3, CHINESE * 3)
            ),
            ask("Hi", "ha " * 20),
            ask("Sing", "Na na na na, hey hey, goodbye. " * 8),
            ask("A form, please", "Name: " + "_" * 60 + "\nDate: " + "_" * 60 + "\nSignature: " + "_" * 60),
            ask(
                "1/3?",
                "1/3 = 0." + "3" * 40 + "..., a 3 that never ends. It is the same as 2/6, 3/9 or 10/30.",
            ),
            *(ask("画一个图", drawing) for drawing in (TOWER, FLOWCHART, FORM, MARKS, PIPES)),
            ask("Title", "=" * 110 + "\nAnnual report\n" + "=" * 110 + "\n" + GERMAN * 3),
            ask("Count", ", ".join(map(str, range(1, 200)))),
            ask("List", "\n".join(f"- The capital of country {n} is city {n}." for n in range(60))),
            ask("Code", "int board[64] = {" + ", ".join("0" * 64) + "};\n\n" + JAVA),
            ask("Dots", "Contents\n" + "\n".join(f"Chapter {n} {'.' * 50} {n * 7}" for n in range(1, 12))),
        ],
    ),
    "refusal": Cases(
        drop=[
            ask("Hi", "As an AI language model, I do not have opinions."),
            ask("Hi", "I'm sorry, but I can't assist with that."),
            ask("Hi", "Als KI-Sprachmodell habe ich keine Meinung."),
            ask("Hi", "En tant que modèle de langage, je ne peux pas."),
            ask("Hi", "Как языковая модель, я не имею мнения."),
            ask("Hi", "作为一个人工智能，我没有感情。"),
            ask("Hi", "AI言語モデルとして、意見はありません。"),
        ],
        keep=[
            ask("As an AI language model, what are you?", "A program that writes text."),
            ask("Hi", GERMAN),
            ask("Hi", "I'm sorry to hear that! " + CHINESE),
            ask("Code", "print('I cannot divide by zero')"),
            ask("Essay", GERMAN * 5 + " Some say: as an AI language model, I cannot know."),
        ],
    ),
    "html_answer": Cases(
        drop=[
            ask("How many ducks?", '<div class="markdown prose"><p>Three <b>ducks</b>.</p></div>'),
            ask("Ducks?", "\n<p>Three.</p>\n<ol><li>One</li></ol> "),
            Doc([("user", "Hi"), ("assistant", "<p>Hi</p>"), ("user", "So?"), ("assistant", "So.")]),
        ],
        keep=[
            ask("Ducks?", "Three <b>ducks</b>."),
            ask("Ducks?", "<p> is a tag, and </p> closes it, I think."),
            ask("Write a web page", "<div><p>Hi</p></div>"),
            ask("Make a div in HTML", "<div></div>"),
            ask("Ducks?", "<think>Why.</think>\n<answer>3</answer>"),
            ask("Ducks?", "```html\n<div></div>\n```"),
            ask("Ducks?", ""),
        ],
    ),
    "url_only": Cases(
        drop=[
            ask("Manual?", "https://acme.test/manual.pdf"),
            ask("Links", " http://a.test\nwww.b.test/x?y=1\n"),
            text("https://acme.test"),
        ],
        keep=[
            ask("Manual?", "See https://acme.test/manual.pdf"),
            ask("链接？", "在这里：https://acme.test"),
            ask("Code", "curl https://acme.test"),
            ask("Hi", ""),
        ],
    ),
    "symbol_share": Cases(
        drop=[
            ask("Hi", "#@!$ %^&* ()_+ " * 10),
            text("★☆★☆→←↑↓▲▼ " * 10),
            ask("Hi", "== -- == ... !!! ??? *** " * 4),
        ],
        keep=[
            *(
                ask("Hi", t)
                for t in (TABLE, JAVA, SQL, SUMS, LATEX, SQUARES, ARABIC, CHINESE, RUSSIAN, JAPANESE)
            ),
            ask("Smile", "🙂🙂🙂"),
            ask(
                "Regex",
                r"const re = /^([a-zA-Z0-9._%-]+@[a-zA-Z0-9.-]+\.[a-zA-Z]{2,6})*$/; return re.test(email);",
            ),
            ask("Hindi", "आज मौसम बहुत अच्छा है और हम पार्क में टहलने जा रहे हैं, क्या आप साथ चलेंगे? हाँ, ज़रूर चलेंगे।"),
        ],
    ),
    "gopher_repetition": Cases(
        drop=[
            text("\n".join(["Access all records of this number now, it is free!"] * 30)),
            text(" ".join(f"buy cheap watches {n}" for n in range(60))),
            text("one two three four five six seven eight nine ten eleven " * 12),
        ],
        keep=[
            text(" ".join(f"word{n * n % 997}" for n in range(300))),
            text("buy now " * 20),
            text(CHINESE * 50),
        ],
    ),
    "language": Cases(
        drop=[ask(t, t + " ") for t in (GERMAN, FRENCH, RUSSIAN, ARABIC, CHINESE, JAPANESE)],
        keep=[
            ask("Tell me about the weather.", "The sun is out and the trees in the park are green."),
            ask("Ja?", "Nein."),
            ask("```\n" + JAVA + "\n```", "12 * 12 = 144"),
        ],
        options={"keep": ["en"]},
    ),
}
"""Every rule but those in tokens, which see a length and no text."""
