"""Stories: somebody, somewhere, wants something; what happens next has a reason."""
from . import words

SUBJECT = {"girl": ("she", "her", "her"), "boy": ("he", "him", "his")}


def people(writer):
    """A hero, a friend and a relative, with their pronouns."""
    facts = {}
    names = {"girl": writer.several(words.GIRLS, 2), "boy": writer.several(words.BOYS, 2)}
    for number, role in enumerate(("hero", "friend")):
        kind = writer.pick(("girl", "boy"))
        suffix = "" if role == "hero" else "2"
        facts[role] = names[kind][number]
        facts["child" + suffix] = kind
        facts["he" + suffix], facts["him" + suffix], facts["his" + suffix] = SUBJECT[kind]
    relative = writer.pick(words.RELATIVES)
    is_woman = relative in ("mother", "grandmother", "aunt")
    facts["relative"] = relative
    facts["he3"], facts["him3"], facts["his3"] = SUBJECT["girl" if is_woman else "boy"]
    return facts


def setting(writer):
    facts = people(writer)
    facts["home"] = writer.pick(words.HOMES)
    facts["color"] = writer.pick(words.COLORS)
    facts["place"], facts["place2"] = writer.several(words.PLACES, 2)
    facts["thing"], facts["use"], facts["spot"], facts["material"] = writer.pick(words.THINGS)
    facts["season"], facts["weather"], facts["work"], facts["look"] = writer.pick(words.SEASONS)
    animal = writer.pick(words.ANIMALS)
    facts["animal"], facts["sound"], facts["food"], facts["den"], facts["trait"] = animal[:5]
    return facts


OPENING = (
    "[Once upon a time|Long ago|Many years ago|One {season}], {a child} named {hero} lived in {home} with {his} {relative}."
)
ENDING = (
    "[That night {hero} slept well.|From that day on {hero} and {friend} were the best of friends."
    "|{Hero} never forgot that day.|And everybody went home happy.|They laughed about it for a long time.]"
)


def lost_thing(writer):
    return writer.document(
        setting(writer),
        "[{Hero} and the {color} {thing}|The {color} {thing}|The lost {thing}]",
        OPENING + " {Hero} had {a color} {thing}[ made of {material}|]. {He} [used it to|liked to take it out and] {use}."
        "[ {His} {relative} had given it to {him}.| It was the thing {he} loved most.|]",
        "One [morning|evening|day] the {thing} was gone. {Hero} looked [under the bed|in the kitchen|behind the house],"
        ' but it was not there. "[Where is my {thing}?|Who has taken my {thing}?]" {he} asked.'
        ' "[I do not know|I have not seen it]," said {his} {relative}. "[When did you see it last?|Where did you have it last?]"',
        '"[I had it|I think I had it] near {place}," said {hero}. So {he} went to {place}. There {he} met {friend}.'
        ' "[Have you seen my {thing}?|I have lost my {thing}.]" asked {hero}. "No," said {friend}, "but I will help you'
        ' [look for it|find it]."',
        "They looked for [an hour|a long time|the whole day]. They looked near {place} and near {place2}. At last {friend}"
        " [saw something {color}|saw the {thing}] {spot}. [\"Here it is!\"|\"Look!\"|\"I have found it!\"] cried {friend}."
        " {Hero} was so happy that {he} [began to sing|danced|laughed out loud].",
        '"Thank you," said {hero}. "[Now we can|Come, we will] {use} together." ' + ENDING,
    )


def lost_animal(writer):
    return writer.document(
        setting(writer),
        "[The {animal} at {place}|{Hero} and the {animal}|The lost {animal}]",
        OPENING + " It was {season}, and {look}.",
        "One [morning|evening|afternoon] {hero} walked to {place} and heard a [small|strange|sad] sound. It was {a animal}."
        " The {animal} was [cold and hungry|hurt and could not walk|alone and afraid], because [it had lost its way in the"
        " {weather}|it had not eaten for two days|it could not find its mother].",
        '"Do not be afraid," said {hero}. {He} knew that {a animal} eats {food}, so {he} [ran home and brought some'
        "|asked {his} {relative} for some|found some near {place2}]. The {animal} ate [slowly|all of it|a little], and then"
        " it [closed its eyes|looked at {hero}|stopped shaking].",
        '{Hero} [took|brought] the {animal} home. "[May I keep it?|Can it stay with us?]" {he} asked. "[It may stay|You may keep it]'
        ' until it is [well|strong] again," said {his} {relative}. "But {a animal} is [happiest|most at home] in {den}."',
        "After [a week|ten days|a month] the {animal} was strong again. {Hero} and {friend} took it back to {place}. The"
        " {animal} [turned around once|looked back|stood still for a moment], and then it ran away. {Hero} was sad, but {he}"
        " was also [glad|proud], because the {animal} was [free|home]. " + ENDING,
    )


def storm(writer):
    return writer.document(
        setting(writer),
        "[The storm|The night of the storm|The great storm]",
        OPENING + " It was {season}. Everybody was busy, because it was time to {work}.",
        "One evening the sky turned [black|dark] and the wind began to blow. {Hero} saw the clouds from {place}."
        ' "[A storm is coming|There will be a storm]," {he} said to {friend}. "We must [go home|find shelter|warn the others]."',
        "The storm came [quickly|before they were home]. Rain fell [hard|all night] and the [river began to rise|road was under"
        " water|wind broke a tree near {place2}]. {Hero} and {friend} [ran to the barn|hid in the old mill|waited under the"
        " bridge]. [They were wet and cold.|They held hands in the dark.|They listened to the thunder.]",
        "{Friend} was afraid. [So {hero} told {him2} a story|So {hero} sang an old song|So {hero} lit the lantern], and after"
        ' a while {friend} was not afraid anymore. "[A storm never lasts|The sun will come back]," said {hero}.',
        "In the morning the sky was [clear|blue]. The wind had [broken the fence|taken part of the roof|thrown apples on the"
        " ground], so all the neighbors came to [help|mend it]. {Hero} and {friend} [carried wood|brought water|held the"
        " ladder]. By evening the work was done, and {his} {relative} made [hot soup|fresh bread|tea] for everybody. " + ENDING,
    )


def learning(writer):
    facts = setting(writer)
    facts["skill"], facts["mistake"], facts["advice"], facts["result"] = writer.pick(
        [
            ("swim", "swallowed water", "Breathe slowly and kick with your legs", "swam across the lake"),
            ("read", "mixed up the letters", "Read one word at a time", "read a whole page aloud"),
            ("bake bread", "burned the bread", "Watch the fire and wait", "baked a round brown loaf"),
            ("ride a horse", "fell into the grass", "Sit straight and look ahead", "rode to the bridge and back"),
            ("play the flute", "played the wrong notes", "Play it slowly first", "played a song from start to end"),
            ("tie a knot", "pulled the wrong end", "Cross the rope and pull it tight", "tied the boat to the dock"),
            ("sew", "cut the cloth too short", "Measure twice and cut once", "made a warm coat"),
            ("climb", "slipped on the wet stone", "Hold on with both hands", "stood on top of the hill"),
        ]
    )
    return writer.document(
        facts,
        "[How {hero} learned to {skill}|{Hero} learns to {skill}]",
        OPENING + " More than anything {hero} wanted to learn to {skill}. {His} friend {friend} could already do it.",
        "The first day {hero} {mistake}. The second day {he} {mistake} again. \"[I will never learn it|It is too hard|I give"
        ' up]," said {hero}[ and sat down on the ground|].',
        '"[Nobody learns it in a day|Everybody makes mistakes at first]," said {his} {relative}. "{advice}. Then try again'
        ' [tomorrow|in the morning|once more]."',
        "So {hero} tried again [every day|every morning|after school]. [It was hard work.|Some days were better than others.|It"
        " took a long time.] {He} remembered what {his} {relative} had said, and little by little it became easier.",
        "At the end of the {season} {hero} {result}. {Friend} [clapped {his2} hands|cheered|could hardly believe it]."
        ' "[You did it!|Well done!]" said {friend}. "[I only did not stop|It was easy once I knew how]," said {hero}. ' + ENDING,
    )


def quarrel(writer):
    return writer.document(
        setting(writer),
        "[The quarrel|{Hero} and {friend}|One {thing} for two]",
        "{Hero} and {friend} [were neighbors|lived next door to each other|went to the same school]. They [played|walked to"
        " school|did everything] together. One day they found {a color} {thing} near {place}.",
        '"I saw it first," said {hero}. "[No, it is mine|But I picked it up]," said {friend}. They pulled at the {thing} until'
        " it [broke|fell in the mud|was torn]. Then both of them were [angry|sad], and each went home alone.",
        "At home {hero} told {his} {relative} what had happened. \"[And are you happy now?|Who has the {thing} now?]\" asked"
        ' {his} {relative}. "Nobody," said {hero}. "[A friend is worth more than {a thing}|You can mend {a thing}, but you must'
        ' also mend a friendship]," said {his} {relative}.',
        'The next [morning|day] {hero} went to see {friend}. "I am sorry," {he} said. "I am sorry too," said {friend}. "[Let us'
        ' mend it together|We can share it]." They used [glue and string|needle and thread|a hammer and some nails], and soon'
        " the {thing} was as good as new.",
        "On [Mondays|even days] {hero} had the {thing}, and on [Tuesdays|odd days] {friend} had it. On Sundays they used it"
        " together to {use}. " + ENDING,
    )


def noise_at_night(writer):
    facts = setting(writer)
    facts["noise"], facts["cause"], facts["remedy"] = writer.pick(
        [
            ("a knock on the window", "a branch that moved in the wind", "cut the branch"),
            ("steps on the roof", "a cat that walked on the roof", "gave the cat some milk"),
            ("a scratch behind the wall", "a mouse that was looking for cheese", "closed the hole in the wall"),
            ("a bang in the barn", "a door that was not closed", "closed the door"),
            ("a whisper in the garden", "the dry leaves in the wind", "swept the leaves into a heap"),
            ("a drip in the kitchen", "rain that came through the roof", "put a bowl under the hole"),
        ]
    )
    return writer.document(
        facts,
        "[A noise in the night|The noise|What {hero} heard]",
        OPENING + " One night {hero} could not sleep. It was [very dark|almost midnight|cold], and {he} heard {noise}.",
        '{Hero} pulled the blanket over {his} head. "[Is it a ghost?|Is it a thief?|Is it a wolf?]" {he} thought. [{His} heart'
        " beat fast.|{He} did not dare to move.|] Then {he} heard it again: {noise}.",
        '{He} went to {his} {relative}. "I heard {noise}," said {hero}. "[Then let us go and see|Take the lantern and come with'
        ' me]," said {his} {relative}. "[We fear what we do not know|Most noises have a reason]."',
        "They took the lantern and went to look. And what did they find? It was only {cause}. {Hero} began to laugh. {His}"
        " {relative} {remedy}, and then the house was quiet.",
        '"[Now I know what it was|I am not afraid anymore]," said {hero}. '
        "[The next time {he} heard a noise, {he} took the lantern and went to look.|{He} went back to bed and slept until"
        " morning.]",
    )


MORALS = [
    ("boasted", "I am the best of all", "asked for help", "Those who ask for help go further than those who boast."),
    ("was in a hurry", "I have no time to wait", "waited patiently", "Those who wait get there in the end."),
    ("was greedy", "I want all of it", "shared the food", "What you share comes back to you."),
    ("was lazy", "I will do it tomorrow", "worked all day", "Work first and rest later."),
    ("told a lie", "I did not do it", "told the truth", "The truth is the shortest way."),
]


def fable(writer):
    facts = setting(writer)
    first, second = writer.several(words.ANIMALS, 2)
    facts["first"], facts["den"], facts["trait"] = first[0], first[3], first[4]
    facts["second"], facts["den2"], facts["trait2"] = second[0], second[3], second[4]
    facts["food"] = writer.pick(("berries", "corn", "nuts", "honey", "apples", "bread", "cheese", "pears"))
    facts["fault"], facts["boast"], facts["virtue"], facts["moral"] = writer.pick(MORALS)
    return writer.document(
        facts,
        "[The {first} and the {second}|The {trait} {first} and the {trait2} {second}]",
        "{A trait} {first} and {a trait2} {second} [lived near {place}|met near {place}|were neighbors]. The {first} lived in"
        " {den}, and the {second} lived in {den2}.",
        "That {season} there was [little to eat|not much food], because of the {weather}. One day they found some {food} near"
        " {place2}. The {first} {fault}. \"{boast},\" said the {first}. But the {second} {virtue}.",
        '"[Why do you do that?"|You are a fool,"] said the {first}. "[Wait and see|We will see]," said the {second}[ and'
        " smiled|]. [Three days|A week] later the {first} had [nothing left|lost everything], and the {second} had [enough for"
        " two|all it needed].",
        '"[Please help me|I was wrong]," said the {first}. The {second} [thought about it|looked at the {first}] for a while.'
        ' "[Come in and eat|There is enough for both of us]," it said. "But remember this day." And the {first} never forgot it.',
        "{moral}",
    )
