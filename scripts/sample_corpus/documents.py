"""Every kind of document, and how often each is written."""
from . import everyday, stories

KINDS = [
    (stories.lost_thing, 5),
    (stories.lost_animal, 4),
    (stories.storm, 4),
    (stories.learning, 4),
    (stories.quarrel, 4),
    (stories.noise_at_night, 3),
    (stories.fable, 5),
    (everyday.letter, 4),
    (everyday.diary, 4),
    (everyday.sums, 5),
    (everyday.recipe, 4),
    (everyday.instructions, 4),
    (everyday.animal, 4),
    (everyday.worker, 3),
    (everyday.town, 2),
]
