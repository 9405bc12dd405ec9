"""German."""

from demo_text.draw import phrases, words
from demo_text.languages import Task

SPACE = " "
THANKS = ("Danke!", "Vielen Dank.", "Sehr gut, danke.", "Und noch etwas:", "Das hilft mir.", "Verstanden.")
SYSTEM = (
    "Du bist ein freundlicher Assistent und antwortest auf Deutsch.",
    "Antworte kurz, sachlich und auf Deutsch.",
    "Du hilfst den Kundinnen und Kunden einer Buchhandlung in Süddeutschland.",
)
GRAMMAR = {
    "name": words(
        "Anna Jürgen Käthe Moritz Sören Frieda Björn Lotte Günther Mira Ömer Jörg Hannah Till Swantje Emil"
    ),
    "ort": words(
        "Lübeck Görlitz Münster Würzburg Köln Tübingen Weimar Jena Bamberg Osnabrück Göttingen Füssen "
        "Zürich Graz Saarbrücken Fürth Lüneburg Nördlingen Düren Villach"
    ),
    "tag": words("Montag Dienstag Mittwoch Donnerstag Freitag Samstag Sonntag"),
    "monat": words("Januar Februar März April Mai Juni Juli August September Oktober November Dezember"),
    "dinge": words(
        "Äpfel Brötchen Bücher Schlüssel Kerzen Möhren Knöpfe Löffel Körbe Stühle Gläser Hüte Kürbisse "
        "Tücher Pläne Bälle"
    ),
    "platz": phrases(
        "am Rathaus|an der Brücke|hinter dem Bahnhof|im Schlosspark|neben der Bäckerei|vor dem Museum|"
        "am Fluss|in der Bücherei|auf dem Marktplatz|unter den Linden|bei der Mühle|gegenüber der Schule"
    ),
    "farbe": words("rote grüne blaue gelbe weiße schwarze graue bunte"),
    "reise": [
        "{platz+} gibt es am {tag+} schöne {dinge+} für {2..9} Euro.",
        "Der Weg nach {ort+} ist {4..19} Kilometer lang und führt durch schöne Wälder.",
        "Das Museum öffnet um {8..11} Uhr und zeigt {20..90} alte {dinge+}.",
        "Ein Zimmer {platz+} kostet im {monat+} etwa {40..120} Euro.",
        "Mit dem Bus {2..90} kommt man in {10..50} Minuten nach {ort+}.",
        "Fragen Sie {name+} {platz+} nach der Führung über {dinge+} und Geschichte.",
        "Im {monat+} regnet es an {5..14} Tagen, also nehmen Sie einen Schirm mit.",
        "Abends spielt {platz+} eine Kapelle aus {ort+}, der Eintritt kostet {5..25} Euro.",
    ],
    "tipp": [
        "Legen Sie sich abends {dinge+} und Papier zurecht, dann geht es morgens schneller.",
        "{name+} übt jeden {tag+} {10..45} Minuten, und zwar {platz+}.",
        "Schreiben Sie {5..30} Wörter auf Kärtchen und hängen Sie sie an die Tür.",
        "Nach {20..60} Minuten sollten Sie eine Pause von {5..15} Minuten machen.",
        "In {ort+} trifft sich dafür am {tag+} eine Gruppe {platz+}.",
        "Eine {farbe+} Mappe für alle Zettel hilft mehr, als man glaubt.",
        "Wer im {monat+} beginnt, sieht nach {4..12} Wochen den ersten Erfolg.",
        "Erzählen Sie {name+} davon, denn gemeinsam fällt es leichter.",
    ],
    "brief": [
        "Leider fehlten in der Lieferung {2..9} {dinge+}, und die Rechnung war um {3..40} Euro zu hoch.",
        "{name+} hatte mir am {tag+} versprochen, dass alles bis {monat+} fertig wird.",
        "Ich war am {tag+} zweimal {platz+}, habe aber niemanden angetroffen.",
        "Die {farbe+} Tür klemmt noch immer, obwohl ein Handwerker aus {ort+} da war.",
        "Bitte überweisen Sie {20..150} Euro innerhalb von {7..21} Tagen.",
        "Können wir uns am {tag+} um {8..18} Uhr {platz+} treffen?",
        "Für die {10..60} {dinge+} habe ich schon einen Platz gefunden.",
    ],
    "geschichte": [
        "{name} fand {platz+} eine {farbe+} Schachtel voller {dinge+}.",
        "„Das gehört nach {ort+}“, sagte {name+} und lachte.",
        "Am {tag+} fuhr der Zug erst nach {10..50} Minuten weiter.",
        "{platz+} saß eine alte Frau und zählte {dinge+}: {20..90} Stück.",
        "Im {monat+} stand das Wasser bis zur {farbe+}n Mauer.",
        "Niemand wusste, warum {name+} seit {2..9} Jahren schwieg.",
        "Hinter der Tür hörte {name} Schritte, genau {5..30}.",
        "Auf dem Zettel stand nur: {tag+}, {7..20} Uhr, {platz+}.",
    ],
    "step": [
        "- {60..300/10} g {zutat+} {schnitt+}",
        "- Die {zutat+} {3..12} Minuten in {1..3} Löffeln Öl anbraten",
        "- Mit {200..800/10} ml Brühe aufgießen und {10..40} Minuten köcheln lassen",
        "- {1..3} Teelöffel {kraut+} und etwas Salz dazugeben",
        "- Bei {160..210/10} °C etwa {15..45} Minuten backen",
        "- {50..200/10} g {zutat+} fein reiben und darüberstreuen",
    ],
    "zutat": words("Möhren Zwiebeln Kartoffeln Käse Kürbis Pilze Lauch Nudeln Linsen Äpfel Grünkohl Rüben"),
    "schnitt": [
        "in Würfel schneiden",
        "in Scheiben schneiden",
        "grob hacken",
        "schälen und waschen",
        "in Streifen schneiden",
    ],
    "kraut": words("Kümmel Thymian Majoran Muskat Petersilie Paprika Rosmarin Curry"),
}
TASKS = (
    Task(
        "Was kann man in {ort} im {monat} unternehmen? Wir sind {2..6} Personen.",
        "In {ort} lohnt sich vieles.",
        "reise",
        2,
        6,
        "Gute Reise nach {ort}!",
    ),
    Task(
        "{name} und ich fahren am {tag} nach {ort}. Hast du Vorschläge?",
        "Für {ort} würde ich so planen:",
        "reise",
        2,
        5,
        "",
    ),
    Task(
        "Wie lerne ich neben der Arbeit eine Sprache? {name} aus {ort} sagt, abends sei es zu spät.",
        "Das geht auch abends, {name} zum Trotz.",
        "tipp",
        4,
        6,
        "Viel Erfolg!",
    ),
    Task(
        "Ich will mein Büro in {ort} aufräumen: Überall liegen {dinge}, sicher "
        "{20..90} Stück. Wie fange ich an?",
        "Am besten in kleinen Schritten.",
        "tipp",
        4,
        6,
        "Nach einigen Tagen wird es zur Gewohnheit.",
    ),
    Task(
        "Schreibe einen Brief an {name} in {ort} wegen {10..60} {dinge}.",
        "Hallo {name},\n\nich schreibe Ihnen wegen der {dinge}.",
        "brief",
        2,
        5,
        "\n\nMit freundlichen Grüßen\n{name+}",
    ),
    Task(
        "Erzähle eine kleine Geschichte über {name} aus {ort}.",
        "Es war ein {tag} im {monat}.",
        "geschichte",
        4,
        14,
        "Seitdem bleibt {name} in {ort}.",
    ),
    Task(
        "Was koche ich am {tag} mit {zutat} für {2..6} Gäste?",
        "Vorschlag: Eintopf mit {zutat}, so wie {name} ihn in {ort} kocht.",
        "step",
        4,
        6,
        "Guten Appetit!",
    ),
    Task(
        "{name} packt in {b} Kisten je {a} {dinge} und gibt {c} davon {platz} ab. Wie viele bleiben übrig?",
        "Zuerst alle zusammen: {a} × {b} = {ab}.",
        "rechnen",
        1,
        1,
        "{ab} − {c} = {rest}. Es bleiben {rest} {dinge} übrig.",
    ),
)
GRAMMAR["rechnen"] = [
    "Davon gehen {c} ab:",
    "Jetzt ziehen wir {c} ab:",
    "Dann fehlen noch die {c}, die {name} abgibt:",
]
