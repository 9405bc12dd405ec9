"""French."""

from demo_text.draw import phrases, words
from demo_text.languages import Task

SPACE = " "
THANKS = ("Merci !", "Merci beaucoup.", "Parfait, merci.", "Autre question :", "C'est clair.", "Très bien.")
SYSTEM = (
    "Tu es un assistant aimable et tu réponds en français.",
    "Réponds brièvement, en français, sans jargon.",
    "Vous aidez les visiteurs d'une médiathèque de province.",
)
GRAMMAR = {
    "nom": words(
        "Chloé Jérôme Hélène Théo Aïcha Noël Zoé François Inès Raphaël Céline Benoît Maëlle Étienne Lucie "
        "Gaël"
    ),
    "ville": words(
        "Dijon Nîmes Besançon Châlons Béziers Châteauroux Périgueux Vannes Nevers Sète Colmar Saint-Étienne "
        "Mâcon Béthune Genève Liège Quimper Thonon Bâle Pézenas"
    ),
    "jour": words("lundi mardi mercredi jeudi vendredi samedi dimanche"),
    "mois": words("janvier février mars avril mai juin juillet août septembre octobre novembre décembre"),
    "choses": words(
        "pommes clés bougies crêpes boîtes cuillères lettres poupées étoiles tasses échelles poires "
        "affiches fenêtres"
    ),
    "lieu": phrases(
        "près de la gare|derrière l'église|à côté du marché|au bord de la rivière|devant la mairie|"
        "dans le vieux théâtre|sous le pont|à la bibliothèque|en face de l'école|sur la place|"
        "au fond du jardin|chez le boulanger"
    ),
    "couleur": words("rouge verte bleue jaune blanche noire grise rose"),
    "voyage": [
        "Le {jour+}, {lieu+}, on vend des {choses+} à {2..9} euros.",
        "Le sentier vers {ville+} fait {4..19} kilomètres et traverse une belle forêt.",
        "Le musée ouvre à {8..11} heures et montre {20..90} {choses+} anciennes.",
        "Une chambre {lieu+} coûte environ {40..120} euros en {mois+}.",
        "Le bus {2..90} vous mène à {ville+} en {10..50} minutes.",
        "Demandez {nom+} {lieu+} : la visite dure {2..4} heures.",
        "En {mois+}, il pleut {5..14} jours, alors prenez un parapluie.",
        "Le soir, un orchestre de {ville+} joue {lieu+} pour {5..25} euros.",
    ],
    "conseil": [
        "Préparez la veille vos {choses+} et une feuille de papier.",
        "{nom+} s'exerce chaque {jour+} pendant {10..45} minutes, {lieu+}.",
        "Notez {5..30} mots sur des fiches et collez-les sur la porte {couleur+}.",
        "Après {20..60} minutes, faites une pause de {5..15} minutes.",
        "À {ville+}, un groupe se réunit le {jour+} {lieu+}.",
        "Une chemise {couleur+} pour tous les papiers aide plus qu'on ne croit.",
        "Si vous commencez en {mois+}, les progrès se verront après {4..12} semaines.",
        "Parlez-en à {nom+} : à deux, c'est plus facile.",
    ],
    "lettre": [
        "Il manquait {2..9} {choses+} dans le colis, et la facture était trop élevée de {3..40} euros.",
        "{nom+} m'avait promis {jour+} que tout serait prêt en {mois+}.",
        "Je suis passé deux fois {lieu+} sans trouver personne.",
        "La porte {couleur+} ferme toujours mal, même après la visite d'un artisan de {ville+}.",
        "Merci de me rembourser {20..150} euros sous {7..21} jours.",
        "Pouvons-nous nous voir {jour+} à {8..18} heures {lieu+} ?",
        "J'ai déjà trouvé une place pour les {10..60} {choses+}.",
    ],
    "conte": [
        "{nom} trouva {lieu+} une boîte {couleur+} pleine de {choses+}.",
        "« Cela vient de {ville+} », dit {nom+} en riant.",
        "Le {jour+}, le train repartit seulement après {10..50} minutes.",
        "Une vieille dame, assise {lieu+}, comptait des {choses+} : il y en avait {20..90}.",
        "En {mois+}, l'eau monta jusqu'à la marque {couleur+}.",
        "Personne ne savait pourquoi {nom+} se taisait depuis {2..9} ans.",
        "Derrière la porte, {nom} entendit {5..30} pas, puis plus rien.",
        "Sur le billet, on lisait : {jour+}, {7..20} heures, {lieu+}.",
    ],
    "step": [
        "- Couper {60..300/10} g de {produit+} en petits dés",
        "- Faire revenir {100..400/10} g de {produit+} pendant {3..12} minutes",
        "- Verser {200..800/10} ml de bouillon et laisser mijoter {10..40} minutes",
        "- Ajouter {1..3} cuillères de {herbe+} et un peu de sel",
        "- Cuire au four à {160..210/10} °C pendant {15..45} minutes",
        "- Râper {50..200/10} g de {produit+} et parsemer",
    ],
    "produit": words(
        "carottes poireaux pommes fromage potiron champignons lentilles navets céleri pâtes fenouil poivrons"
    ),
    "herbe": words("thym cumin romarin persil paprika curry sarriette muscade"),
    "calcul": [
        "On retire ensuite les {c} :",
        "Puis on enlève {c} :",
        "Il faut encore ôter les {c} que {nom} a donnés :",
    ],
}
TASKS = (
    Task(
        "Que faire à {ville} en {mois} ? Nous sommes {2..6}.",
        "À {ville}, le choix est grand.",
        "voyage",
        2,
        6,
        "Bon séjour à {ville} !",
    ),
    Task(
        "{nom} et moi partons {jour} pour {ville}. Des idées ?",
        "Voici un programme pour {ville}.",
        "voyage",
        2,
        5,
        "",
    ),
    Task(
        "Comment apprendre une langue en travaillant ? {nom}, de {ville}, dit que c'est impossible.",
        "C'est possible, n'en déplaise à {nom}.",
        "conseil",
        4,
        6,
        "Bon courage !",
    ),
    Task(
        "Je veux ranger mon bureau à {ville}, où traînent {20..90} {choses}. Par où commencer ?",
        "Par de petites étapes.",
        "conseil",
        4,
        6,
        "Au bout de quelques jours, l'habitude est prise.",
    ),
    Task(
        "Écris une lettre à {nom}, à {ville}, au sujet de {10..60} {choses}.",
        "Bonjour {nom},\n\nje vous écris au sujet des {choses}.",
        "lettre",
        2,
        5,
        "\n\nCordialement,\n{nom+}",
    ),
    Task(
        "Raconte une petite histoire sur {nom}, de {ville}.",
        "C'était un {jour} de {mois}.",
        "conte",
        4,
        14,
        "Depuis, {nom} n'a plus quitté {ville}.",
    ),
    Task(
        "Que cuisiner {jour} avec {100..900/10} g de {produit} pour {2..6} personnes ?",
        "Idée : un ragoût comme celui que {nom} prépare à {ville}.",
        "step",
        4,
        6,
        "Bon appétit !",
    ),
    Task(
        "{nom} remplit {b} caisses de {a} {choses} et en donne {c} {lieu}. Combien en reste-t-il ?",
        "D'abord toutes ensemble : {a} × {b} = {ab}.",
        "calcul",
        1,
        1,
        "{ab} − {c} = {rest}. Il reste {rest} {choses}.",
    ),
)
