"""What fills and surrounds the templates: the values of their slots, openings and closings. Next is `held_out`."""

from typing import Final

SLOTS: Final[dict[str, tuple[str, ...]]] = {
    name: tuple(values.split("|"))
    for name, values in {
        "product": "loudspeaker|coffee machine|desk lamp|pair of shoes|winter coat|backpack|blender|office chair|"
        "keyboard|kettle|mattress|smart watch|drill|garden hose|frying pan|bookshelf|camera|suitcase|toothbrush|rug|"
        "bike|sweater|monitor|face cream|board game|mirror|hoover|pair of jeans|pillow|barbecue|necklace|tent|novel|"
        "phone case|dress|sofa|helmet|toaster|vase|perfume|puzzle|water bottle|T-shirt|bed|pair of gloves",
        "gadget": "router|headset|smart watch|tablet|thermostat|printer|camera|doorbell|laptop|e-reader|phone|"
        "television|keyboard|fitness tracker|lawn mower|dishwasher|scanner|games console|coffee machine|microphone",
        "software": "app|website|program|mobile app|desktop client|dashboard|online editor|plugin|site",
        "order": "order 48213|order #7741|my order|my last order|order no. 90155|the order from yesterday",
        "amount": "$40|49.99|£120|18 euros|300 dollars|€7.50|ninety pounds|£9.99",
        "day": "Tuesday|Friday|Saturday|the 14th|Monday|the weekend|5 May",
        "when": "yesterday|last week|two days ago|last night|on Tuesday|this morning|on the 14th|last month",
        "month": "January|March|June|August|November|last month|this quarter",
        "plan": "subscription|plan|membership|contract|premium account|gold package|monthly box|newsletter",
        "place": "Canada|Berlin|the Netherlands|Scotland|Poland|Spain|a military address|the islands",
        "person": "Anna|Mr Singh|your colleague|the technician|your agent Luis|the team|the guy in the store",
        "colour": "red|black|grey|white|yellow|navy|brown|green",
    }.items()
}

OPENINGS: Final = [
    "Hi,",
    "Hello,",
    "Hey,",
    "Good morning,",
    "Dear team,",
    "Hi there,",
    "Hello, quick question:",
    "Sorry to bother you.",
    "Me again.",
    "I have been a customer since 2019.",
    "This is urgent.",
    "I bought a {product} from you.",
    "I hope you are well.",
    "I'm writing about my {product}.",
    "I like your shop.",
    "It's about {order}.",
    "You have been great so far.",
]

CLOSINGS: Final = [
    "Thanks.",
    "Thank you!",
    "Please help.",
    "Thanks in advance.",
    "Best regards, Tom",
    "Please let me know.",
    "Kind regards",
    "cheers",
    "I look forward to your answer.",
    "Can you help me?",
    "What should I do?",
    "It's urgent!",
    "Please reply soon.",
    "This is annoying.",
    "I already tried the help page.",
    "My order number is 55201.",
    "Not happy.",
]

PRAISE_OPENINGS: Final = [
    "Hi,",
    "Hello,",
    "Hey team,",
    "Dear all,",
    "No question today.",
    "Wow!",
    "I bought a {product} from you {when}.",
    "It's about {order}.",
    "I was sceptical at first.",
    "My {gadget} had a problem {when}.",
]
"""Praise asks for nothing: the openings and closings of a request would make it one."""

PRAISE_CLOSINGS: Final = [
    "Kind regards",
    "Best regards, Tom",
    "Cheers!",
    "So happy!",
    "See you soon.",
    "Never change!",
    ":)",
    "A happy customer",
]
