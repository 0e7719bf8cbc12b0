"""The small world the documents are about."""

GIRLS = "Anna Mary Rose Lucy Emma Clara Grace Alice Ruth Sara Nina Ella Kate Julia Helen Maya".split()
BOYS = "Tom Ben Sam Jack Peter Max Leo Adam Paul Henry Daniel Oscar Luke Martin Felix Hugo".split()

TOWNS = "Millbrook Oakfield Westport Riverside Stonebridge Redhill Greenwood Northgate".split()

HOMES = [
    "a small village by the sea",
    "a little house near the river",
    "an old farm at the foot of the hills",
    "a quiet street behind the market",
    "a stone house at the edge of the forest",
    "a red house on top of the hill",
    "a narrow street in the middle of the town",
    "a white house beside the lake",
]

PLACES = [
    "the river", "the forest", "the market", "the old mill", "the bridge", "the garden", "the barn", "the school",
    "the harbor", "the lake", "the hill", "the well", "the church", "the orchard",
]

RELATIVES = ["mother", "father", "grandmother", "grandfather", "aunt", "uncle"]

COLORS = ["red", "blue", "green", "yellow", "white", "brown", "black", "silver"]

# thing, what it is for, where it may be lost, what it is made of
THINGS = [
    ("lantern", "light the way home", "under the bench", "tin and glass"),
    ("kite", "fly high above the fields", "in a tall tree", "paper and string"),
    ("boat", "sail across the pond", "among the reeds", "wood"),
    ("drum", "play for the whole village", "behind the door", "wood and leather"),
    ("basket", "carry apples from the orchard", "beside the gate", "straw"),
    ("scarf", "keep warm in the winter", "on a branch", "wool"),
    ("flute", "play slow and gentle songs", "in the long grass", "wood"),
    ("map", "find the way through the hills", "between two books", "paper"),
    ("clock", "tell the time", "under the stairs", "brass and wood"),
    ("ball", "play with friends after school", "in the bushes", "leather"),
    ("key", "open the garden gate", "under a flat stone", "iron"),
    ("book", "read by the fire", "on the highest shelf", "paper and cloth"),
    ("hat", "keep the sun away", "on the fence", "straw"),
    ("bell", "call the goats home", "near the well", "silver"),
    ("box", "keep small treasures safe", "beneath the bed", "wood"),
    ("knife", "cut bread and cheese", "at the bottom of the boat", "steel"),
]

# animal, its sound, its food, its home, what it is like, its young, what it does well, its legs
ANIMALS = [
    ("fox", "bark", "mice and berries", "a den under the roots of a tree", "clever", "cubs", "listen", 4),
    ("owl", "hoot", "mice and beetles", "a hole in an old tree", "quiet", "owlets", "see in the dark", 2),
    ("rabbit", "squeak", "grass and clover", "a burrow in the field", "shy", "kits", "run and hide", 4),
    ("horse", "neigh", "hay and oats", "a stable near the barn", "strong", "foals", "run fast", 4),
    ("cow", "moo", "grass and hay", "a barn on the farm", "calm", "calves", "give milk", 4),
    ("goat", "bleat", "leaves and grass", "a shed on the hill", "curious", "kids", "climb", 4),
    ("hen", "cluck", "corn and worms", "a wooden house in the yard", "busy", "chicks", "lay eggs", 2),
    ("duck", "quack", "plants and snails", "a nest beside the pond", "cheerful", "ducklings", "swim", 2),
    ("dog", "bark", "meat and bread", "a warm corner of the kitchen", "loyal", "puppies", "follow a smell", 4),
    ("cat", "meow", "fish and milk", "a soft chair by the fire", "proud", "kittens", "jump", 4),
    ("bear", "growl", "honey and fish", "a cave in the mountains", "heavy", "cubs", "climb trees", 4),
    ("wolf", "howl", "deer and rabbits", "a den in the deep forest", "wild", "pups", "run for hours", 4),
    ("sheep", "bleat", "grass and herbs", "a field behind the farm", "gentle", "lambs", "give wool", 4),
    ("pig", "grunt", "roots and corn", "a pen beside the barn", "smart", "piglets", "find roots", 4),
    ("crow", "caw", "seeds and insects", "a nest at the top of a tree", "clever", "chicks", "remember faces", 2),
    ("mouse", "squeak", "seeds and cheese", "a hole in the wall", "small", "pups", "hide", 4),
    ("frog", "croak", "flies and worms", "the mud beside the pond", "patient", "tadpoles", "jump", 4),
    ("donkey", "bray", "hay and thistles", "a stable behind the mill", "stubborn", "foals", "carry heavy bags", 4),
]

# worker, place of work, tool, what comes of it, what he or she does
JOBS = [
    ("baker", "bakery", "oven", "bread", "bakes bread before the sun comes up"),
    ("farmer", "farm", "plow", "wheat", "works in the fields from morning to evening"),
    ("fisher", "harbor", "net", "fish", "goes out to sea before the sun comes up"),
    ("smith", "forge", "hammer", "horseshoes", "bends hot iron into shape"),
    ("carpenter", "workshop", "saw", "chairs", "cuts wood and makes it smooth"),
    ("weaver", "workshop", "loom", "cloth", "makes cloth out of wool"),
    ("miller", "mill", "millstone", "flour", "grinds wheat into flour"),
    ("doctor", "clinic", "bag", "medicine", "visits people who are ill"),
    ("teacher", "school", "chalk", "lessons", "helps children learn to read"),
    ("gardener", "garden", "spade", "vegetables", "plants seeds in the spring"),
    ("potter", "workshop", "wheel", "bowls", "turns wet clay into bowls"),
    ("shepherd", "hills", "staff", "wool", "keeps the sheep safe from the wolf"),
]

FRUITS = ["apples", "pears", "plums", "cherries", "eggs", "nuts", "oranges", "cakes", "loaves", "fish", "flowers", "stones"]

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]

# season, its weather, its work, its look
SEASONS = [
    ("spring", "soft rain", "plant the seeds", "the trees were covered with flowers"),
    ("summer", "bright sun", "cut the hay", "the fields were dry and yellow"),
    ("autumn", "cold wind", "pick the apples", "the leaves were red and brown"),
    ("winter", "heavy snow", "bring in the wood", "the pond was covered with ice"),
]
