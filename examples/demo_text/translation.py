"""Simple sentences in eight languages side by side, and translation tasks made of them."""

from __future__ import annotations

from demo_text.draw import Draw
from demo_text.problems import Turn

LANGUAGES = ("en", "de", "fr", "es", "zh", "ru", "ar", "ja")
ENGLISH_NAMES = {
    "en": "English",
    "de": "German",
    "fr": "French",
    "es": "Spanish",
    "zh": "Chinese",
    "ru": "Russian",
    "ar": "Arabic",
    "ja": "Japanese",
}

Row = tuple[str, str, str, str, str, str, str, str]
"""One phrase in the order of LANGUAGES."""

FRUIT: tuple[Row, ...] = (
    ("apples", "Äpfel", "pommes", "manzanas", "苹果", "яблок", "تفاحات", "りんご"),
    ("oranges", "Orangen", "oranges", "naranjas", "橙子", "апельсинов", "برتقالات", "オレンジ"),
    ("lemons", "Zitronen", "citrons", "limones", "柠檬", "лимонов", "ليمونات", "レモン"),
    ("bananas", "Bananen", "bananes", "plátanos", "香蕉", "бананов", "موزات", "バナナ"),
    ("tomatoes", "Tomaten", "tomates", "tomates", "西红柿", "помидоров", "حبات طماطم", "トマト"),
    ("eggs", "Eier", "œufs", "huevos", "鸡蛋", "яиц", "بيضات", "卵"),
    ("peaches", "Pfirsiche", "pêches", "melocotones", "桃子", "персиков", "خوخات", "桃"),
    ("onions", "Zwiebeln", "oignons", "cebollas", "洋葱", "луковиц", "بصلات", "玉ねぎ"),
)
DAY: tuple[Row, ...] = (
    ("Monday", "Montag", "lundi", "lunes", "星期一", "в понедельник", "الاثنين", "月曜日"),
    ("Tuesday", "Dienstag", "mardi", "martes", "星期二", "во вторник", "الثلاثاء", "火曜日"),
    ("Wednesday", "Mittwoch", "mercredi", "miércoles", "星期三", "в среду", "الأربعاء", "水曜日"),
    ("Thursday", "Donnerstag", "jeudi", "jueves", "星期四", "в четверг", "الخميس", "木曜日"),
    ("Friday", "Freitag", "vendredi", "viernes", "星期五", "в пятницу", "الجمعة", "金曜日"),
    ("Saturday", "Samstag", "samedi", "sábado", "星期六", "в субботу", "السبت", "土曜日"),
    ("Sunday", "Sonntag", "dimanche", "domingo", "星期日", "в воскресенье", "الأحد", "日曜日"),
)
CITY: tuple[Row, ...] = (
    ("Paris", "Paris", "Paris", "París", "巴黎", "Париж", "باريس", "パリ"),
    ("Berlin", "Berlin", "Berlin", "Berlín", "柏林", "Берлин", "برلين", "ベルリン"),
    ("London", "London", "Londres", "Londres", "伦敦", "Лондон", "لندن", "ロンドン"),
    ("Madrid", "Madrid", "Madrid", "Madrid", "马德里", "Мадрид", "مدريد", "マドリード"),
    ("Beijing", "Peking", "Pékin", "Pekín", "北京", "Пекин", "بكين", "北京"),
    ("Tokyo", "Tokio", "Tokyo", "Tokio", "东京", "Токио", "طوكيو", "東京"),
    ("Vienna", "Wien", "Vienne", "Viena", "维也纳", "Вену", "فيينا", "ウィーン"),
    ("Geneva", "Genf", "Genève", "Ginebra", "日内瓦", "Женеву", "جنيف", "ジュネーブ"),
    ("Lisbon", "Lissabon", "Lisbonne", "Lisboa", "里斯本", "Лиссабон", "لشبونة", "リスボン"),
    ("Istanbul", "Istanbul", "Istanbul", "Estambul", "伊斯坦布尔", "Стамбул", "إسطنبول", "イスタンブール"),
)
WHO: tuple[Row, ...] = (
    ("My brother", "Mein Bruder", "Mon frère", "Mi hermano", "我哥哥", "Мой брат", "أخي", "兄"),
    ("My father", "Mein Vater", "Mon père", "Mi padre", "我父亲", "Мой отец", "والدي", "父"),
    ("My friend", "Mein Freund", "Mon ami", "Mi amigo", "我的朋友", "Мой друг", "صديقي", "友達"),
    ("The teacher", "Der Lehrer", "Le professeur", "El profesor", "老师", "Учитель", "المعلم", "先生"),
    ("The neighbour", "Der Nachbar", "Le voisin", "El vecino", "邻居", "Сосед", "الجار", "隣人"),
    ("The doctor", "Der Arzt", "Le médecin", "El médico", "医生", "Врач", "الطبيب", "医者"),
    ("My uncle", "Mein Onkel", "Mon oncle", "Mi tío", "我叔叔", "Мой дядя", "عمي", "叔父"),
    ("The student", "Der Student", "L'étudiant", "El estudiante", "学生", "Студент", "الطالب", "学生"),
)
THING: tuple[Row, ...] = (
    ("a book", "ein Buch", "un livre", "un libro", "一本书", "книгу", "كتابًا", "本"),
    ("a letter", "einen Brief", "une lettre", "una carta", "一封信", "письмо", "رسالة", "手紙"),
    ("a newspaper", "eine Zeitung", "un journal", "un periódico", "一份报纸", "газету", "جريدة", "新聞"),
    ("a poem", "ein Gedicht", "un poème", "un poema", "一首诗", "стихотворение", "قصيدة", "詩"),
    ("a report", "einen Bericht", "un rapport", "un informe", "一份报告", "отчёт", "تقريرًا", "報告書"),
    ("a magazine", "eine Zeitschrift", "une revue", "una revista", "一本杂志", "журнал", "مجلة", "雑誌"),
)
FRAMES: tuple[Row, ...] = (
    (
        "I bought {n} {fruit} on {day}.",
        "Ich habe am {day} {n} {fruit} gekauft.",
        "J'ai acheté {n} {fruit} {day}.",
        "Compré {n} {fruit} el {day}.",
        "我{day}买了{n}个{fruit}。",
        "Я купил {n} {fruit} {day}.",
        "اشتريت {n} {fruit} يوم {day}.",
        "{day}に{fruit}を{n}個買いました。",
    ),
    (
        "{who} is travelling to {city} on {day}.",
        "{who} reist am {day} nach {city}.",
        "{who} part pour {city} {day}.",
        "{who} viaja a {city} el {day}.",
        "{who}{day}去{city}。",
        "{who} едет в {city} {day}.",
        "{who} يسافر إلى {city} يوم {day}.",
        "{who}は{day}に{city}へ行きます。",
    ),
    (
        "{who} is reading {thing}.",
        "{who} liest gerade {thing}.",
        "{who} lit {thing}.",
        "{who} está leyendo {thing}.",
        "{who}正在看{thing}。",
        "{who} сейчас читает {thing}.",
        "{who} يقرأ {thing}.",
        "{who}は{thing}を読んでいます。",
    ),
    (
        "The train to {city} leaves at {n} o'clock.",
        "Der Zug nach {city} fährt um {n} Uhr ab.",
        "Le train pour {city} part à {n} heures.",
        "El tren a {city} sale a las {n}.",
        "去{city}的火车{n}点出发。",
        "Поезд в {city} отправляется в {n} часов.",
        "ينطلق القطار إلى {city} في الساعة {n}.",
        "{city}行きの列車は{n}時に出発します。",
    ),
    (
        "Please bring {n} {fruit} and {thing}.",
        "Bitte bring {n} {fruit} und {thing} mit.",
        "Apporte {n} {fruit} et {thing}, s'il te plaît.",
        "Trae {n} {fruit} y {thing}, por favor.",
        "请带{n}个{fruit}和{thing}来。",
        "Принеси, пожалуйста, {n} {fruit} и {thing}.",
        "أحضر من فضلك {n} {fruit} و{thing}.",
        "{fruit}を{n}個と{thing}を持ってきてください。",
    ),
    (
        "On {day}, {who_inside} ate {n} {fruit}.",
        "Am {day} hat {who_inside} {n} {fruit} gegessen.",
        "{Day}, {who_inside} a mangé {n} {fruit}.",
        "El {day}, {who_inside} comió {n} {fruit}.",
        "{day}{who}吃了{n}个{fruit}。",
        "{Day} {who_inside} съел {n} {fruit}.",
        "أكل {who} {n} {fruit} يوم {day}.",
        "{day}に{who}は{fruit}を{n}個食べました。",
    ),
    (
        "We came to {city} for {n} days.",
        "Wir sind für {n} Tage nach {city} gekommen.",
        "Nous sommes venus à {city} pour {n} jours.",
        "Vinimos a {city} por {n} días.",
        "我们来{city}待了{n}天。",
        "Мы приехали в {city} на {n} дней.",
        "جئنا إلى {city} لمدة {n} أيام.",
        "私たちは{n}日間の予定で{city}に来ました。",
    ),
)
"""Numbers run from 5 to 10: Russian nouns then stand in the genitive plural, Arabic ones in the plural."""


def sentence(draw: Draw) -> Row:
    """One sentence in every language, in the order of LANGUAGES."""
    frame, number = draw.pick(FRAMES), draw.integer(5, 10)
    rows = {
        "fruit": draw.pick(FRUIT),
        "day": draw.pick(DAY),
        "city": draw.pick(CITY),
        "thing": draw.pick(THING),
    }
    who = draw.pick(WHO)
    texts = []
    for place, template in enumerate(frame):
        slots = {slot: row[place] for slot, row in rows.items()}
        inside = who[place][0].lower() + who[place][1:]
        texts.append(
            template.format(
                n=number, who=who[place], who_inside=inside, Day=slots["day"].capitalize(), **slots
            )
        )
    return tuple(texts)  # type: ignore[return-value]


def translation(draw: Draw) -> list[Turn]:
    source, target = ("en", draw.pick(LANGUAGES[1:]))
    if draw.chance(0.4):
        source, target = target, source
    count = draw.pick([2, 2, 3, 3, 4, 5, 6])
    rows = [sentence(draw) for _ in range(count)]
    left = [row[LANGUAGES.index(source)] for row in rows]
    right = [row[LANGUAGES.index(target)] for row in rows]
    language = ENGLISH_NAMES[target]
    ask = draw.pick(
        [
            f"Translate into {language}:",
            f"How do you say this in {language}?",
            f"Please put these {count} sentences into {language}.",
            f"{language}, please:",
        ]
    )
    join = "\n" if draw.chance(0.6) else (" " if source not in ("zh", "ja") else "")
    return [(f"{ask}\n\n{join.join(left)}", join.join(right))]
