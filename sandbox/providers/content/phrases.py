"""Phrases for the stand-in's posts. {name}, {kind}, {vendor}, {tag}… come from the store's data."""

TITLES = [
    "{name}: what to know before you buy",
    "A closer look at {name}",
    "Living with {name}: a practical guide",
    "Why {who} keep coming back to {name}",
    "{name}, and how to get the most out of it",
    "Choosing well: the case for {name}",
    "The quiet strengths of {name}",
]
HEADINGS = [
    "What makes {name} different",
    "Who it is for",
    "How it is made",
    "Using it {place}",
    "Caring for it",
    "What to compare it with",
    "Questions people ask about {kind}",
    "Small details that matter",
    "Getting the size and fit right",
    "Before you decide",
]
DESCRIPTIONS = [
    "What {name} does well, who it suits, and how to look after it: a short, practical guide.",
    "Thinking about {name}? Here is what {who} should know before they choose.",
    "An honest look at {name} by {vendor}: everyday use, care, and details worth knowing.",
]
ANGLES = [
    "A practical guide for {who} who want something {trait} and do not want to read a catalogue",
    "How {name} earns its place {place}, told through everyday use",
    "What {vendor} got right, and for whom it matters",
]
PLACES = [
    "at home",
    "on the road",
    "on a slow weekend",
    "in a small kitchen",
    "on a rainy morning",
    "in the city",
    "out of doors",
    "in a busy week",
]
PEOPLE = [
    "first-time buyers",
    "careful shoppers",
    "people who use things daily",
    "gift hunters",
    "long-time customers",
    "families",
    "those who travel light",
]
TRAITS = [
    "simple",
    "durable",
    "comfortable",
    "well made",
    "easy to care for",
    "honest",
    "versatile",
    "understated",
]
SENTENCES = [
    "There is a certain calm in owning a {kind} that simply works.",
    "{name} is the sort of thing that explains itself after a week of use.",
    "Most {kind} promise a great deal; this one is {trait}, and that turns out to be enough.",
    "{vendor} has kept the design close to what {who} asked for.",
    "If you care about {tag}, you will notice the difference early on.",
    "It feels at home {place}, and it does not ask for attention.",
    "Look at the seams and the edges first: that is where {kind} usually show their age.",
    "The word that comes up most often among {who} is {trait}.",
    "Nothing here is loud, and nothing here is an afterthought.",
    "For the money{price}, it sits comfortably between the cheap and the precious.",
    "Try it {place} before you judge it; first impressions are quieter than the second week.",
    "A good {kind} should be {trait} on the day you buy it and a year later.",
    "Keep it clean, keep it dry, and it will look after itself.",
    "When in doubt, measure twice: returns are easy, and time is not.",
    "It pairs well with anything that shares its restraint, {tag} above all.",
    "What sets it apart is not one feature but the absence of small annoyances.",
    "Ask yourself where you will use it; {place} is where it shines.",
    "{who} tend to buy a second one as a gift, which says more than a review.",
    "There are lighter choices and there are cheaper ones, but few that are as {trait}.",
    "Read the care label once and you will not need it again.",
    "{name} rewards a little patience: give it a few days {place}.",
    "You may not need every option, and that is fine: {tag} alone is a good reason.",
    "Compare it with what you use today and write down what bothers you; that list decides.",
    "The best advice is to start simple and add only what you miss.",
]
