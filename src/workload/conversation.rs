//! A conversation: what its user says in each turn. The answers are the model's own.

/// The user's messages. Later ones refer to what was said before, as in a real conversation; each
/// is formatted as plain text, because a chat template may rewrite earlier turns (Qwen3's drops
/// their thinking), and what is rewritten no KV cache holds.
pub(super) const MESSAGES: [&str; 4] = [
    "User: My grandmother left me a recipe for rye bread. It says to mix 500 g of rye flour with \
     350 g of warm water and a spoon of sourdough, and to leave the bowl beside the stove over \
     night. In the morning 10 g of salt and a handful of caraway go in, the dough rests for two \
     hours, and the loaf is baked at 220 degrees until it sounds hollow. Why does the dough have \
     to rest twice?\nAssistant:",
    "\nUser: My kitchen is cold in winter, about 16 degrees at night. How much longer should the \
     first rest be, and how can I see that it was long enough?\nAssistant:",
    "\nUser: I want to bake three loaves at once, each half as heavy as hers. Give me the amounts of \
     all ingredients for the three together, and say whether the time in the oven changes.\n\
     Assistant:",
    "\nUser: Write the whole recipe again as a short list of steps for my neighbour, with what you \
     told me about the cold kitchen.\nAssistant:",
];
