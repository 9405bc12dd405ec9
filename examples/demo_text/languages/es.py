"""Spanish."""

from demo_text.draw import phrases, words
from demo_text.languages import Task

SPACE = " "
THANKS = ("¡Gracias!", "Muchas gracias.", "Perfecto, gracias.", "Otra pregunta:", "Entendido.", "Muy bien.")
SYSTEM = (
    "Eres un asistente amable y respondes en español.",
    "Responde en español, con frases cortas y sin tecnicismos.",
    "Ayudas a los vecinos de un barrio con sus trámites.",
)
GRAMMAR = {
    "nombre": words(
        "Lucía Andrés Begoña Íñigo Sofía Martín Inés Julián Ángela Raúl Verónica Óscar Maite Tomás Noelia "
        "Hernán"
    ),
    "ciudad": words(
        "Cádiz León Málaga Ávila Cáceres Córdoba Mérida Jaén Logroño Gijón Alcalá Úbeda Bogotá Medellín "
        "Asunción Potosí Cusco Querétaro Mazatlán Rosario"
    ),
    "día": words("lunes martes miércoles jueves viernes sábado domingo"),
    "mes": words("enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre"),
    "cosas": words(
        "manzanas llaves velas cajas cucharas cartas muñecas estrellas tazas sillas piñas postales ventanas "
        "cañas"
    ),
    "lugar": phrases(
        "junto a la estación|detrás de la iglesia|en la plaza mayor|a orillas del río|"
        "delante del ayuntamiento|en el viejo teatro|bajo el puente|en la biblioteca|frente a la escuela|"
        "al lado del jardín|cerca del muelle"
    ),
    "color": words("roja verde azul amarilla blanca negra gris violeta"),
    "viaje": [
        "El {día+} venden {cosas+} {lugar+} por {2..9} euros.",
        "El camino a {ciudad+} tiene {4..19} kilómetros y pasa por un bosque precioso.",
        "El museo abre a las {8..11} y enseña {20..90} {cosas+} antiguas.",
        "Una habitación {lugar+} cuesta unos {40..120} euros en {mes+}.",
        "El autobús {2..90} llega a {ciudad+} en {10..50} minutos.",
        "Pregunten por {nombre+} {lugar+}: la visita dura {2..4} horas.",
        "En {mes+} llueve unos {5..14} días, así que lleven paraguas.",
        "Por la noche toca {lugar+} una banda de {ciudad+}; la entrada cuesta {5..25} euros.",
    ],
    "consejo": [
        "Prepare la noche anterior las {cosas+} y una hoja de papel.",
        "{nombre+} practica cada {día+} durante {10..45} minutos, {lugar+}.",
        "Escriba {5..30} palabras en tarjetas y péguelas en la puerta {color+}.",
        "Después de {20..60} minutos, descanse otros {5..15}.",
        "En {ciudad+} hay un grupo que se reúne el {día+} {lugar+}.",
        "Una carpeta {color+} para todos los papeles ayuda más de lo que parece.",
        "Quien empieza en {mes+} nota el cambio después de {4..12} semanas.",
        "Cuénteselo a {nombre+}: entre dos es más fácil.",
    ],
    "carta": [
        "En el paquete faltaban {2..9} {cosas+} y la factura tenía {3..40} euros de más.",
        "{nombre+} me prometió el {día+} que todo estaría listo en {mes+}.",
        "Pasé dos veces {lugar+} y no encontré a nadie.",
        "La puerta {color+} sigue sin cerrar, aunque vino un técnico de {ciudad+}.",
        "Le ruego que me devuelva {20..150} euros en {7..21} días.",
        "¿Podemos vernos el {día+} a las {8..11} {lugar+}?",
        "Ya tengo sitio para las {10..60} {cosas+}.",
    ],
    "cuento": [
        "{nombre} encontró {lugar+} una caja {color+} llena de {cosas+}.",
        "—Esto es de {ciudad+} —dijo {nombre+}, y se echó a reír.",
        "El {día+} el tren tardó {10..50} minutos en salir.",
        "{nombre+} contaba {cosas+} {lugar+}: tenía {20..90}.",
        "En {mes+} el agua subió hasta la marca {color+}.",
        "Nadie sabía por qué {nombre+} callaba desde hacía {2..9} años.",
        "Detrás de la puerta, {nombre} oyó {5..30} pasos y después nada.",
        "En el papel solo ponía: {día+}, a las {7..11}, {lugar+}.",
    ],
    "step": [
        "- Cortar {60..300/10} g de {producto+} en dados pequeños",
        "- Sofreír {100..400/10} g de {producto+} durante {3..12} minutos",
        "- Añadir {200..800/10} ml de caldo y cocer {10..40} minutos",
        "- Poner {1..3} cucharaditas de {hierba+} y un poco de sal",
        "- Hornear a {160..210/10} °C unos {15..45} minutos",
        "- Rallar {50..200/10} g de {producto+} y echarlo por encima",
    ],
    "producto": words(
        "zanahoria cebolla patata queso calabaza champiñones lentejas nabo hinojo pimiento maíz puerro"
    ),
    "hierba": words("tomillo comino romero perejil pimentón orégano cúrcuma azafrán"),
    "cálculo": [
        "Ahora quitamos {c}:",
        "Después restamos las {c}:",
        "Faltan por restar las {c} que regala {nombre}:",
    ],
}
TASKS = (
    Task(
        "¿Qué se puede hacer en {ciudad} en {mes}? Somos {2..6} personas.",
        "En {ciudad} hay mucho que ver.",
        "viaje",
        2,
        6,
        "¡Buen viaje a {ciudad}!",
    ),
    Task(
        "{nombre} y yo vamos el {día} a {ciudad}. ¿Alguna idea?",
        "Este plan para {ciudad} funciona bien.",
        "viaje",
        2,
        5,
        "",
    ),
    Task(
        "¿Cómo aprendo un idioma mientras trabajo? {nombre}, de {ciudad}, dice que es imposible.",
        "Se puede, diga lo que diga {nombre}.",
        "consejo",
        4,
        6,
        "¡Mucho ánimo!",
    ),
    Task(
        "Quiero ordenar mi despacho de {ciudad}, con {20..90} {cosas} por el suelo. ¿Por dónde empiezo?",
        "Por pasos pequeños.",
        "consejo",
        4,
        6,
        "En unos días será una costumbre.",
    ),
    Task(
        "Escribe una carta a {nombre}, de {ciudad}, sobre {10..60} {cosas}.",
        "Hola, {nombre}:\n\nle escribo por las {cosas}.",
        "carta",
        2,
        5,
        "\n\nUn saludo,\n{nombre+}",
    ),
    Task(
        "Cuéntame un cuento breve sobre {nombre}, de {ciudad}.",
        "Era un {día} de {mes}.",
        "cuento",
        4,
        14,
        "Desde entonces {nombre} no sale de {ciudad}.",
    ),
    Task(
        "¿Qué cocino el {día} con {100..900/10} g de {producto} para {2..6} personas?",
        "Una idea: el guiso que {nombre} hace en {ciudad}.",
        "step",
        4,
        6,
        "¡Buen provecho!",
    ),
    Task(
        "{nombre} llena {b} cajas con {a} {cosas} cada una y regala {c} {lugar}. ¿Cuántas quedan?",
        "Primero todas juntas: {a} × {b} = {ab}.",
        "cálculo",
        1,
        1,
        "{ab} − {c} = {rest}. Quedan {rest} {cosas}.",
    ),
)
