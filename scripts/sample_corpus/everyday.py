"""Everything that is not a story: letters, diaries, sums, recipes, instructions and descriptions."""
from . import words
from .stories import SUBJECT, setting

ORDER = ["First", "Then", "Next", "After that", "Then", "Now", "Finally"]


def in_order(steps):
    """Each step led by its word of order, the last one always by `Finally`."""
    leads = ORDER[: len(steps) - 1] + ["Finally"]
    return " ".join(f"{lead} {step}." for lead, step in zip(leads, steps))


def letter(writer):
    facts = setting(writer)
    facts["town"] = writer.pick(words.TOWNS)
    facts["day"] = writer.pick(words.DAYS)
    facts["pet"] = writer.pick(words.ANIMALS)[0]
    facts["kin"] = {
        "mother": "daughter son", "father": "daughter son", "grandmother": "granddaughter grandson",
        "grandfather": "granddaughter grandson", "aunt": "niece nephew", "uncle": "niece nephew",
    }[facts["relative"]].split()[facts["child"] == "boy"]
    return writer.document(
        facts,
        "Dear {Relative},",
        "[Thank you for your letter.|I hope you are well.|It is {day} evening, and I have time to write.] I am writing to you"
        " from {town}, where I have been for [a week|two weeks|a month]. It is {season} here, and there is a lot of {weather}.",
        "On {day} I went to {place} with my friend {friend}. [We saw {a animal} there.|We walked all the way.|We ate bread and"
        " cheese under a tree.] {Friend} [told me|says] that the best time to go to {place} is in the [morning|evening], because"
        " [it is quiet then|the light is beautiful then|there are not so many people].",
        "[Thank you also for the {thing}.|I still have the {color} {thing} you gave me.] I use it to {use}. [{Friend} wants one"
        " too.|Everybody here likes it.|]",
        "How is the {pet}? Please [give it something good to eat|tell it that I will be home soon]. I will come home [next"
        " {day}|at the end of the {season}|before the winter], when we {work}.",
        "[Your loving {kin}|With love from your {kin}],",
        "{hero}",
    )


def diary(writer):
    facts = setting(writer)
    first = writer.number(0, 3)
    lines = ["[The diary of {hero}|A week in {season}]"]
    weathers = [
        ("It rained all day", "so we stayed inside", ["played cards by the fire", "mended our clothes", "baked bread"]),
        ("The sun was shining", "so we went out early", ["worked in the garden", "walked to {place}", "washed the clothes"]),
        ("It was very cold", "so we made a big fire", ["drank hot tea", "told old stories", "made soup"]),
        ("The wind was strong", "so {friend} brought the kite", ["ran across the fields", "went up the hill"]),
        ("It snowed in the night", "so the road was white", ["fed the birds", "made a man of snow", "cleared the path"]),
        ("There was thick fog", "so nobody went to sea", ["cleaned the boats", "mended the nets"]),
    ]
    for day, (sky, result, actions) in zip(words.DAYS[first:], writer.several(weathers, 4)):
        lines.append(
            f"{day}. {sky}, {result}. We {writer.pick(actions)}. [In the evening {{hero2}} came to visit.|{{Friend}} was with me."
            "|My {relative} was pleased.|I went to bed early.|I was tired but happy.|]"
        )
    facts["hero2"] = writer.pick([name for name in words.GIRLS + words.BOYS if name not in (facts["hero"], facts["friend"])])
    return writer.document(facts, *lines)


def plural(count, things):
    """`1 apple`, `2 apples`."""
    singular = {"cherries": "cherry", "loaves": "loaf", "fish": "fish"}.get(things, things.removesuffix("s"))
    return f"{count} {singular if count == 1 else things}"


def one_sum(writer):
    name, other = writer.several(words.GIRLS + words.BOYS, 2)
    he = SUBJECT["girl" if name in words.GIRLS else "boy"][0]
    things, a, b = writer.pick(words.FRUITS), writer.number(2, 9), writer.number(2, 9)
    high, low = max(a, b) + 1, min(a, b)
    has = f"{name} has {plural(high, things)}."
    kind = writer.pick(("add", "take", "times", "share", "compare", "pay"))
    if kind == "add":
        return (f"{has} {other} gives {name} {low} more. How many {things} does {name} have now? "
                f"{high} + {low} = {high + low}. {name} has {plural(high + low, things)} now.")
    if kind == "take":
        return (f"{has} {he.capitalize()} gives {plural(low, things)} to {other}. How many {things} are left? "
                f"{high} - {low} = {high - low}. {name} has {plural(high - low, things)} left.")
    if kind == "times":
        return (f"There are {a} baskets. In each basket there are {plural(b, things)}. How many {things} are there? "
                f"{a} x {b} = {a * b}. There are {plural(a * b, things)}.")
    if kind == "share":
        return (f"{name} has {plural(a * b, things)} for {a} children. How many {things} does each child get? "
                f"{a * b} / {a} = {b}. Each child gets {plural(b, things)}.")
    if kind == "compare":
        return (f"{has} {other} has {plural(low, things)}. Who has more, and how many more? {high} - {low} = {high - low}. "
                f"{name} has {plural(high - low, things)} more than {other}.")
    return (f"{name} buys {plural(a, things)} at the market. Each costs {plural(b, 'coins')}. How much does {name} pay? "
            f"{a} x {b} = {a * b}. {name} pays {plural(a * b, 'coins')}.")


def sums(writer):
    title = writer.pick(["Sums", "Sums for the morning", "Sums at the market", "How many?"])
    return "\n".join([title] + [one_sum(writer) for _ in range(writer.number(3, 5))])


RECIPES = [
    ("vegetable soup", ["2 carrots", "1 onion", "3 potatoes", "a little salt"],
     ["wash the carrots and the potatoes", "cut the onion into small pieces", "put everything into a pot of water",
      "cook the soup for thirty minutes", "add a little salt and serve it hot"]),
    ("bread", ["4 cups of flour", "1 cup of warm water", "a spoon of salt", "a little yeast"],
     ["mix the yeast with the warm water", "add the flour and the salt", "knead the dough for ten minutes",
      "let the dough rest until it is twice as big", "bake the bread until it is brown"]),
    ("pancakes", ["2 eggs", "1 cup of milk", "1 cup of flour", "a little butter"],
     ["beat the eggs in a bowl", "add the milk and the flour", "melt the butter in a pan",
      "pour in a little of the dough", "turn the pancake when it is brown and eat it with honey"]),
    ("apple pie", ["6 apples", "2 cups of flour", "1 cup of butter", "some sugar"],
     ["mix the flour with the butter", "roll out the dough and put it into a dish", "cut the apples into thin slices",
      "put the apples and the sugar on the dough", "bake the pie for one hour"]),
    ("plum jam", ["20 plums", "2 cups of sugar", "the juice of 1 lemon"],
     ["wash the plums and take out the stones", "put the plums and the sugar into a large pot",
      "cook them slowly and stir all the time", "add the juice of the lemon", "fill the hot jam into clean jars"]),
    ("fish stew", ["1 large fish", "2 onions", "4 potatoes", "some herbs"],
     ["clean the fish and cut it into pieces", "fry the onions in a little oil", "add the potatoes and some water",
      "put in the fish and the herbs", "cook the stew for twenty minutes"]),
    ("porridge", ["1 cup of oats", "2 cups of milk", "a spoon of honey"],
     ["pour the milk into a pot", "add the oats", "cook the porridge slowly and stir it", "add the honey and eat it warm"]),
    ("egg salad", ["4 eggs", "1 onion", "a spoon of oil", "some salt"],
     ["boil the eggs for ten minutes", "put the eggs into cold water", "cut the eggs and the onion into small pieces",
      "mix them with the oil and the salt"]),
]


def recipe(writer):
    facts = setting(writer)
    dish, needs, steps = writer.pick(RECIPES)
    facts["dish"], facts["count"] = dish, writer.number(2, 6)
    return writer.document(
        facts,
        "[How to make {dish}|A recipe for {dish}|{Dish}]",
        "[This is how my {relative} makes {dish}.|{Hero} learned this recipe from {his} {relative}.|In {season} there is nothing"
        " better than {dish}.|Everybody in {hero}'s house likes {dish}.] It is enough for {count} people.",
        "You need: " + ", ".join(needs) + ".",
        in_order(steps),
        "[Be careful, because the pot is hot.|Do not forget the last step.|It tastes best on the same day.|Share it with a"
        " friend.|{Hero} likes to eat it near the fire.]",
    )


# title, what is needed, steps, why
TASKS = [
    ("plant beans", "a spade, some beans and water",
     ["dig a small hole in the ground", "put one bean into each hole", "cover the beans with earth",
      "give them water every day", "wait until you see the first green leaves"],
     "A bean needs water to wake up, earth to hold on to and light to grow"),
    ("light a fire", "dry wood, some paper and a match",
     ["put the paper in the middle", "lay small sticks over the paper", "light the paper with the match",
      "blow gently until the sticks burn", "add larger pieces of wood"],
     "A fire needs wood to burn and air to breathe, so never cover it"),
    ("catch a fish", "a line, a hook and a worm",
     ["put the worm on the hook", "throw the line into the water", "sit still and wait",
      "pull when the line moves", "take the fish home for supper"],
     "Fish can hear steps on the ground, so you have to be quiet"),
    ("mend a fence", "a hammer, some nails and a board",
     ["take away the broken board", "cut the new board to the right length", "hold the board against the posts",
      "drive in two nails at each end", "paint the board so that the rain cannot harm it"],
     "Wet wood becomes soft, so paint makes a fence last longer"),
    ("make butter", "fresh cream and a jar",
     ["pour the cream into the jar", "close the jar well", "shake the jar for twenty minutes",
      "pour off the thin milk", "press the butter and add a little salt"],
     "When cream is shaken, the small drops of fat stick to each other"),
    ("wash wool", "warm water, soap and a tub",
     ["fill the tub with warm water", "put the wool and the soap into the tub", "press the wool gently",
      "rinse the wool with clean water", "hang the wool in the wind to dry"],
     "Hot water makes wool small and hard, so the water must only be warm"),
    ("make paper", "old paper, water and a fine net",
     ["tear the old paper into small pieces", "leave the pieces in water over night", "beat them until they are soft",
      "lift a thin layer out with the net", "press it and let it dry in the sun"],
     "Paper is made of many thin threads, and they hold together when they dry"),
    ("find north", "a stick and a sunny day",
     ["put the stick into the ground", "mark the end of its shadow with a stone", "wait for a quarter of an hour",
      "mark the end of the shadow again", "stand with the first stone on your left, and you look to the north"],
     "The sun moves from east to west, so the shadow moves from west to east"),
    ("keep bees", "a hive, a hat and a coat",
     ["put the hive in a quiet place", "plant flowers around it", "leave the bees alone in the spring",
      "take some of the honey in the summer", "leave enough honey for the winter"],
     "Bees make honey out of flowers, and they eat it when there are no flowers"),
    ("draw water", "a bucket and a long rope",
     ["tie the rope to the bucket", "let the bucket down into the well", "wait until the bucket is full",
      "pull the rope slowly with both hands", "carry the water home"],
     "Water is heavy, so half a bucket is enough for a child"),
]


def instructions(writer):
    facts = setting(writer)
    facts["task"], facts["needs"], steps, facts["why"] = writer.pick(TASKS)
    return writer.document(
        facts,
        "How to {task}",
        "[Anybody can learn to {task}.|It is not hard to {task}.|{Hero} asked {his} {relative} how to {task}.|In {season} it is"
        " a good time to {task}.] You need {needs}.",
        in_order(steps),
        "[Why does it work?|Remember this:|{Hero} wanted to know the reason.] {why}.",
        "[If it does not work, try again.|The next time it will be easier.|{Friend} does it the same way.|Ask somebody to help"
        " you the first time.|]",
    )


def animal(writer):
    facts = setting(writer)
    keys = ("animal", "sound", "food", "den", "trait", "young", "gift", "legs")
    facts.update(zip(keys, writer.pick(words.ANIMALS)))
    facts["legs"] = {2: "two", 4: "four"}[facts["legs"]]
    facts["covered"] = "feathers" if facts["legs"] == "two" else "skin" if facts["animal"] == "frog" else "hair"
    return writer.document(
        facts,
        "[The {animal}|All about the {animal}|What is {a animal}?]",
        "The {animal} is {a trait} animal with {legs} legs. Its body is covered with {covered}. It lives in {den}[, where it is"
        " safe|, where it sleeps|]. It eats {food}. It can {gift} [very well|better than most animals].",
        "The young of the {animal} are called {young}. In the spring the mother [looks after|feeds|watches over] the {young}"
        " until they can find {food} on their own.",
        "[{Hero} once saw {a animal} near {place}.|There is {a animal} near {place}.] [When it heard {him}, it began to"
        " {sound}.|It did not {sound}, and it did not run away.|It was [early|late], and it began to {sound}.]",
        "What does {a animal} eat? It eats {food}. Where does it live? It lives in {den}. What can it do? It can {gift}."
        "[ What are its young called? They are called {young}.|]",
    )


def worker(writer):
    facts = setting(writer)
    keys = ("job", "shop", "tool", "product", "does")
    facts.update(zip(keys, writer.pick(words.JOBS)))
    facts["town"] = writer.pick(words.TOWNS)
    facts["years"] = writer.pick(("five", "ten", "twenty", "thirty"))
    return writer.document(
        facts,
        "[The {job}|{Hero} the {job}|A day with the {job}]",
        "{Hero} is the {job} of {town}. {He} has been {a job} for {years} years. {His} {relative} was {a job} too. Every day"
        " {he} {does}.",
        "The most important tool of {a job} is the {tool}. Without the {tool} there would be no {product}, and without {product}"
        " the people of {town} would [not be happy|have a hard life|miss something].",
        '"[What do you like about your work?|Is it hard work?]" asked {friend} one day. "[I like to see what I have done|It is'
        ' hard, but I like it]," said {hero}. "[In the evening I am tired, but I am content|People need {product}, and I can'
        ' help them]."',
        "{Friend} [thought about it for a long time|wanted to try it too]. {He2} came to the {shop} [every day|the next morning],"
        " and after {years} weeks {he2} could use the {tool} almost as well as {hero}.",
    )


def town(writer):
    facts = setting(writer)
    facts["town"] = writer.pick(words.TOWNS)
    facts["day"] = writer.pick(words.DAYS)
    first, second = writer.several(words.JOBS, 2)
    facts["job"], facts["product"], facts["job2"], facts["product2"] = first[0], first[3], second[0], second[3]
    facts["houses"] = 10 * writer.number(4, 30)
    return writer.document(
        facts,
        "[The town of {town}|{Town}|A visit to {town}]",
        "{Town} is a [small|quiet|pretty] town between {place} and {place2}. It has {houses} houses[, one school|] and a market."
        " The market is on {day}. On that day people come from all the villages around {town}.",
        "The {job} sells {product}, and the {job2} sells {product2}. [The {job} and the {job2} are old friends.|They have known"
        " each other for years.|The {job} always comes first.] People also buy [fruit|cheese|flowers] and [honey|eggs|candles].",
        "In {season} there is {weather} in {town}. It is the time to {work}. [{Hero} remembers {a season} when {look}.|Last"
        " year {look}.]",
        "[How do you get to {town}? Go|If you want to see {town}, go] to {place}, follow the road to {place2}, and you will see the"
        " [church|mill|first houses] on your [left|right]. [{Hero} lives in the {color} house.|Ask for {hero}, who knows"
        " everybody.|]",
    )
