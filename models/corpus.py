"""The demo model's training text, made from WordNet.

Reads the WordNet 3.0 database files (Debian package wordnet-base) and the SCOWL
word lists (Debian package scowl, used only to tell which words are common) and
turns them into *facts*: short question and answer pairs with several wordings of
the question, and plain sentences.  Everything here is deterministic: the same
packages give the same facts, and one epoch's text is a function of its seed.
"""
import os
import random
import re
from collections import Counter, defaultdict

WORDNET = os.environ.get("WORDNET_DIR", "/usr/share/wordnet")
SCOWL = os.environ.get("SCOWL_DIR", "/usr/share/dict/scowl")

NOUNS, VERBS, ADJECTIVES = 3400, 300, 300
HELD_OUT_LINES = 600

LEX = {3: "tops", 4: "act", 5: "animal", 6: "artifact", 7: "attribute", 8: "body", 9: "cognition",
       10: "communication", 11: "event", 12: "feeling", 13: "food", 14: "group", 15: "location",
       16: "motive", 17: "object", 18: "person", 19: "phenomenon", 20: "plant", 21: "possession",
       22: "process", 23: "quantity", 24: "relation", 25: "shape", 26: "state", 27: "substance", 28: "time"}
CONCRETE = {"animal", "artifact", "body", "food", "object", "person", "plant", "substance", "phenomenon", "shape"}
COUNT_PRIOR = {"animal", "artifact", "body", "object", "person", "plant", "shape", "group", "location", "event", "time", "quantity"}
BAD = re.compile(r"offensive|slur|disparag|obscen|vulgar|slang|sexual|genital|intercourse|prostitut|excre|feces|"
                 r"homosexual|negro|ethnic|jew|muslim|breasts|racial|buttock|penis|vagina|anus|copulat|defecat|urinat|suicide|rape", re.I)
MASS_HEADS = set("food equipment clothing water furniture material liquid music fabric matter metal wood meat work "
                 "writing energy information knowledge behavior conduct activity paper cloth leather rock soil money jewelry "
                 "bread cheese wine beer milk fruit tissue gas poetry art light power ice snow rain land evidence property "
                 "time motion growth fat oil glass steel rubber plastic air earth dirt hair fur skin wool cotton silk "
                 "weather pain anger fear happiness love pleasure sadness salt sugar flour starch dough pasta rice corn flesh "
                 "beef pork sound noise speech language fiction drama entertainment footwear headgear lodging "
                 "transportation government research study training experience something anything someone somebody "
                 "anyone people men women children persons cattle poultry advice luck fun alcohol fuel coal wealth income "
                 "merchandise machinery weaponry ammunition ability failure".split())

# Words that anyone might try first, whatever their counts say.
FAVOURITES = set("banana wine desert tulip planet thunder gold silver caravan shark spider kangaroo giraffe whale dolphin zebra "
                 "lion hippopotamus rhinoceros octopus squirrel hedgehog parrot peacock swan crocodile tortoise turtle lizard strawberry cherry "
                 "peach grape pineapple carrot tomato onion mushroom pizza chocolate sandwich pancake cello clarinet saxophone trombone "
                 "harp accordion guitar orchestra symphony opera volcano glacier waterfall earthquake hurricane tornado rainbow lightning "
                 "telescope microscope compass bicycle motorcycle helicopter submarine rocket parachute lighthouse windmill pyramid "
                 "dentist astronaut carpenter pirate wizard dragon unicorn mermaid ghost chess football diamond emerald pearl "
                 "galaxy comet atom electron molecule bacteria oxygen hydrogen democracy philosophy algebra geometry".split())

# Words whose first sense in WordNet is not the one that people have in mind (by number, from 0).
PREFERRED = dict(tiger=1, whale=1, turtle=1, octopus=1, alligator=1, trout=1, eel=1, mackerel=1, grouse=1, wildcat=2, chicken=1, pirate=1,
                 galaxy=2, hammer=1, banana=1, wizard=1, swallow=2, herring=1, ring=2, beam=1, arrow=1, ghost=2, dock=2, path=1, leaflet=2,
                 brush=1, chess=1, peach=2, cherry=2, stem=1, bank=1, printer=1)


class Synset:
    __slots__ = ("pos", "offset", "lex", "words", "ptrs", "gloss", "definition", "examples")


def read_data(pos):
    out = {}
    with open(f"{WORDNET}/data.{pos}", encoding="latin-1") as f:
        for line in f:
            if line.startswith("  "):
                continue
            head, _, gloss = line.partition("|")
            t = head.split()
            s = Synset()
            s.pos, s.offset, s.lex = t[2], int(t[0]), LEX.get(int(t[1]), "")
            n = int(t[3], 16)
            s.words = [re.sub(r"\(.*?\)$", "", w).replace("_", " ") for w in t[4:4 + 2 * n:2]]
            at = 4 + 2 * n
            s.ptrs = []
            for i in range(int(t[at])):
                sym, off, p, st = t[at + 1 + 4 * i:at + 5 + 4 * i]
                s.ptrs.append((sym, int(off), p, st))
            s.gloss = " ".join(gloss.split()).replace("`", "'")
            s.examples = [e.strip() for e in re.findall(r'"([^"]+)"', s.gloss)]
            d = re.sub(r'"[^"]*"?', "", s.gloss).split(";")[0]
            d = re.sub(r"^\s*\([^)]*\)\s*", "", d)
            d = re.sub(r"\s*\([^)]*\)", "", d)
            s.definition = " ".join(d.split()).strip(" :,;-.")
            out[s.offset] = s
    return out


def read_index(pos):
    out = {}
    with open(f"{WORDNET}/index.{pos}", encoding="latin-1") as f:
        for line in f:
            if line.startswith("  "):
                continue
            t = line.split()
            out[t[0]] = [int(o) for o in t[-int(t[2]):]]
    return out


def read_counts():
    """lemma, part of speech -> (uses of the first sense, uses of all senses) in the sense-tagged texts."""
    code = {"1": "noun", "2": "verb", "3": "adj", "4": "adv", "5": "adj"}
    first, total = Counter(), Counter()
    with open(f"{WORDNET}/cntlist.rev", encoding="latin-1") as f:
        for line in f:
            key, number, count = line.split()
            lemma, _, rest = key.partition("%")
            k = (lemma, code[rest[0]])
            total[k] += int(count)
            if number == "1":
                first[k] = max(first[k], int(count))
    return first, total


def read_common():
    level = {}
    for size in (10, 20, 35, 40, 50):
        for kind in ("english", "american"):
            path = f"{SCOWL}/{kind}-words.{size}"
            if os.path.exists(path):
                with open(path, encoding="latin-1") as f:
                    for w in f:
                        level.setdefault(w.strip(), size)
    return level


def an(word):
    w = word.lower()
    if re.match(r"(uni([^nm]|$)|use|usu|eu|one|once|ukulele|u-|ur[ia]n|utens|utili|uter)", w):
        return "a"
    if re.match(r"(hour|honest|honor|heir|herb)", w):
        return "an"
    return "an" if w[:1] in "aeiou" else "a"


def plural(w):
    if re.search(r"(s|x|z|ch|sh)$", w):
        return w + "es"
    if re.search(r"[^aeiou]y$", w):
        return w[:-1] + "ies"
    if w.endswith("man"):
        return w[:-3] + "men"
    return w + "s"


def cap(s):
    return s[:1].upper() + s[1:]


DETERMINED = re.compile(r"^(an?|the|any|some|one|someone|somebody|something|anyone|anything|each|every|all|either|two|three|four|five|"
                        r"six|seven|eight|nine|ten|several|various|many|what|whatever|how|that|his|her|its|your|their|no|most|to|"
                        r"in|of|by|not|used|being|relating|informal|usually|\d.*|[A-Z].*)\b")
STOP = re.compile(r"\b(that|which|who|whose|of|with|used|for|in|having|from|on|made|consisting|to|by|where|when|containing|at|"
                  r"between|as|and|or|worn|without|resembling|forming|based|caused|intended|designed|characterized|produced|"
                  r"attached|living|found|native|given|grown|done|taken|into|along|around|over|under|near|through|showing|"
                  r"bearing|often|usually|especially|is|are|something|someone|you|it|about|like|after|before|against|during|"
                  r"resulting|covered|held|performed|played|supported|written|composed|placed|built|cut|not|but)\b|[,:]")


def with_article(definition, lex):
    """WordNet leaves the article out of about half of its noun glosses: put it back where a reader expects one."""
    d = definition
    if DETERMINED.match(d):
        return d
    m = STOP.search(d, 1)
    head = (d[:m.start()] if m else d).split()
    if not head or len(head) > 6:
        return d
    h = head[-1]
    if h in MASS_HEADS or (h.endswith("s") and not re.search(r"(ss|us|is)$", h)) or h.endswith(("ing", "ness", "tion", "ity", "ment", "ism", "ure", "ance", "ence")) and lex not in ("artifact", "person", "group", "location"):
        return d
    if lex in ("food", "substance", "feeling", "attribute", "state", "process", "phenomenon") and lex != "artifact":
        return d if lex in ("substance", "food", "attribute", "feeling", "state") else an(d) + " " + d
    if h.endswith("ly") or h in ("very", "most"):
        return d
    return an(d) + " " + d


class Facts:
    def __init__(self):
        noun, verb, adj = read_data("noun"), read_data("verb"), read_data("adj")
        inoun, iverb, iadj = read_index("noun"), read_index("verb"), read_index("adj")
        first, total = read_counts()
        common = read_common()
        data = {"n": noun, "v": verb, "a": adj, "s": adj}
        running = Counter()
        prev_article = Counter()
        for d in (noun, verb, adj):
            for s in d.values():
                t = re.findall(r"[a-z]+", s.gloss.lower())
                running.update(t)
                for a, b in zip(t, t[1:]):
                    if a in ("a", "an", "each", "every", "one"):
                        prev_article[b] += 1

        self.qa = []         # (weight, [questions], answer)
        self.plain = []      # (word, [sentences])

        def q(weight, questions, answer):
            self.qa.append((weight, questions, answer))

        # --- choose the words -------------------------------------------------------------
        def kind_of(lemma):
            c = [(total[(lemma, p)], -i, p) for i, (p, ix) in enumerate((("noun", inoun), ("adj", iadj), ("verb", iverb))) if lemma in ix]
            return max(c)[2]

        def level(lemma):
            return common.get(lemma, 99)

        scored = []
        for lemma, offs in inoun.items():
            s = noun[offs[0]]
            two = "_" in lemma
            if lemma in FAVOURITES and s.definition:
                scored.append((-99, lemma))
                continue
            if two and (lemma.count("_") > 1 or total[(lemma, "noun")] < 1):
                continue
            if not re.fullmatch(r"[a-z]{2,}(_[a-z]{2,})?", lemma) or len(lemma) < 3 and lemma != "ox":
                continue
            if any(p[0] == "@i" for p in s.ptrs) or not any(w == lemma.replace("_", " ") for w in s.words):
                continue
            lv = 35 if two else level(lemma)
            if lv > 50 or not s.definition or len(s.definition.split()) > 24 or len(s.definition) < 8 or BAD.search(s.gloss) or BAD.search(lemma):
                continue
            if kind_of(lemma) != "noun" and total[(lemma, "noun")] < 3 and s.lex not in ("animal", "artifact", "food", "plant", "body"):
                continue
            if re.search(rf"\b{re.escape(lemma)}\b", s.definition) and len(s.definition.split()) < 5:
                continue
            if lemma.endswith("s") and not lemma.endswith(("ss", "us", "is")) and lv > 35:
                continue
            score = {10: 9.0, 20: 8, 35: 6.5, 40: 4.5, 50: 2.5}[lv]
            score += min(3.5, 0.8 * (total[(lemma, "noun")] + 1) ** 0.35)
            score += 3.0 if s.lex in ("animal", "artifact", "food", "plant", "body", "object", "substance") else 1.2 if s.lex in CONCRETE else 0
            score += min(1.5, 0.25 * running[lemma] ** 0.5)
            score -= max(0, len(s.definition.split()) - 14) * 0.15
            scored.append((-score, lemma))
        scored.sort()
        nouns = [l for _, l in scored[:NOUNS]]
        chosen = set(nouns)
        for lemma, number in PREFERRED.items():
            inoun[lemma].insert(0, inoun[lemma].pop(number))

        def choose(index, table, pos, n):
            c = []
            for lemma, offs in index.items():
                s = table[offs[0]]
                if not re.fullmatch(r"[a-z]{3,}", lemma) or lemma in chosen or level(lemma) > 35:
                    continue
                if not s.definition or len(s.definition.split()) > 16 or BAD.search(s.gloss):
                    continue
                if kind_of(lemma) != pos or re.search(rf"\b{lemma}\b", s.definition) or lemma in ("have", "can", "been", "does"):
                    continue
                c.append((-total[(lemma, pos)], lemma))
            c.sort()
            return [l for _, l in c[:n]]

        verbs = choose(iverb, verb, "verb", VERBS)
        chosen.update(verbs)
        adjectives = choose(iadj, adj, "adj", ADJECTIVES)
        self.words = nouns

        # --- nouns ------------------------------------------------------------------------
        children = defaultdict(list)
        for rank, lemma in enumerate(nouns):
            w = lemma.replace("_", " ")
            s = noun[inoun[lemma][0]]
            is_plural = bool(re.search(r"[^s]s$", w)) and (w[:-1] in inoun or s.definition.startswith(("two", "garments", "shoes")) or s.lex == "artifact") and not w.endswith(("us", "is", "lens"))
            pl = plural(w)
            used = running[lemma] + 1
            countable = not is_plural and (s.lex in COUNT_PRIOR or prev_article[lemma] / used > 0.10 or running[pl] / used > 0.35)
            if s.lex in ("substance", "feeling") and prev_article[lemma] / used < 0.3:
                countable = False
            if lemma in ("love", "winter", "summer", "autumn", "chess", "football", "thunder", "lightning", "art", "honesty", "beauty", "democracy", "clothing", "furniture", "jewelry", "equipment", "water", "weather", "information", "footwear", "luggage", "money", "music", "money", "bread", "milk"):
                countable = False
            subj = f"{an(w)} {w}" if countable else w
            be = "are" if is_plural else "is"
            d = with_article(s.definition, s.lex)
            if is_plural:
                d = s.definition
            answer = f"{cap(subj)} {be} {d}."
            qs = [f"What {be} {subj}?"] * 5 + [f"What does {w} mean?"] * 2 + [f"What does \"{w}\" mean?", f"Define {w}.", f"Define {w}.", f"Define {subj}.",
                  f"What {be} {w}?", f"what {be} {subj}", f"what {be} {w}", f"What's {subj}?", f"Tell me what {subj} {be}.", f"Explain the word {w}.",
                  f"Can you tell me what {subj} {be}?", f"Tell me about {pl if countable else w}.", f"What is the meaning of {w}?", f"Do you know what {subj} {be}?", f"{cap(w)}?", w,
                  f"define {w}", f"What {be} {subj.replace(w, cap(w))}?"]
            if countable:
                qs += [f"What are {pl}?"]
            else:
                qs += [f"What is {an(w)} {w}?"]
            q(1.0, qs, answer)
            forms = [answer, f"{w}: {s.definition}.", f"The word \"{w}\" means {d}.", f"By {w} we mean {d}."]
            # what kind
            up = [p for p in s.ptrs if p[0] == "@"]
            if up and up[0][2] == "n":
                h = noun[up[0][1]]
                hw = h.words[0]
                if h.lex != "tops" and hw.lower() == hw and " or " not in hw and not re.search(rf"\b{re.escape(w)}$", hw):
                    a = f"{cap(subj)} {be} a kind of {hw}."
                    q(0.3, [f"What kind of thing {be} {subj}?"] * 4 + [f"What sort of thing {be} {subj}?", f"What kind of thing {be} {w}?", f"What type of thing {be} {subj}?", f"what kind of thing {be} {subj}"], a)
                    forms.append(a)
                    if len(children[hw]) < 40 and s.lex in CONCRETE:
                        children[hw].append(w)
            # synonyms
            syn = [x for x in s.words if x.lower() != w and x.lower() == x and w not in x and x not in w]
            if syn and level(syn[0]) <= 50:
                q(0.2, [f"What is another word for {w}?"] * 3 + [f"Give me a synonym of {w}.", f"What is a synonym for {w}?", f"Another word for {w}?"], f"Another word for {w} is {syn[0]}.")
            # examples of use
            ex = [e for e in s.examples if re.search(rf"\b{w}", e) and 12 <= len(e) <= 90 and not BAD.search(e) and re.match(r"[\x20-\x7e]+$", e)]
            if ex:
                e = cap(ex[0]).rstrip(".;,") + ("" if ex[0].endswith(("?", "!")) else ".")
                q(0.2, [f"Use {w} in a sentence."] * 2 + [f"Use the word {w} in a sentence.", f"Give me an example of the word {w}.", f"Give me an example with {w}.", f"Give an example of how to use {w}."], e)
                forms.append(e)
            # parts
            parts = []
            for sym, off, p, _ in s.ptrs:
                if sym == "%p" and p == "n":
                    parts += [x for x in noun[off].words[:1] if x.lower() == x]
            if len(parts) >= 2:
                parts = parts[:4]
                q(0.25, [f"What are the parts of {subj}?"] * 2 + [f"What parts does {subj} have?", f"Name some parts of {subj}."],
                  f"The parts of {subj} include the {', the '.join(parts[:-1])} and the {parts[-1]}.")
            self.plain.append((w, forms))
        for hw, ws in children.items():
            if len(ws) >= 3 and len(hw) > 2:
                ws = ws[:5]
                pl = plural(hw)
                q(0.5, [f"Give me examples of {pl}."] * 2 + [f"Name some kinds of {hw}.", f"Give me an example of {an(hw)} {hw}.", f"Name some {pl}.", f"Give me some examples of {pl}.", f"What are some kinds of {hw}?"],
                  f"Some kinds of {hw} are {', '.join(ws[:-1])} and {ws[-1]}.")

        # --- verbs and adjectives -----------------------------------------------------------
        for lemma in verbs:
            s = verb[iverb[lemma][0]]
            q(0.8, [f"What does it mean to {lemma}?"] * 3 + [f"What does {lemma} mean?"] * 3 + [f"Define {lemma}.", f"What does \"{lemma}\" mean?", f"What is the meaning of {lemma}?", f"define {lemma}"], f"To {lemma} is to {s.definition}.")
        for lemma in adjectives:
            s = adj[iadj[lemma][0]]
            q(0.8, [f"What does {lemma} mean?"] * 4 + [f"Define {lemma}."] * 2 + [f"What does \"{lemma}\" mean?", f"What is the meaning of {lemma}?", f"define {lemma}"], f"{cap(lemma)} means {s.definition}.")
        # opposites
        seen = set()
        for lemma, offs in iadj.items():
            if level(lemma) > 20 or not lemma.isalpha() or total[(lemma, "adj")] < 6 or lemma in seen:
                continue
            for o in offs:
                s = adj[o]
                names = [w.lower() for w in s.words]
                if lemma not in names:
                    continue
                k = names.index(lemma) + 1
                hit = [(off, st) for sym, off, p, st in s.ptrs if sym == "!" and int(st[:2], 16) == k]
                if hit:
                    ant = adj[hit[0][0]].words[int(hit[0][1][2:], 16) - 1]
                    if level(ant) <= 50:
                        seen.add(lemma)
                        q(0.4, [f"What is the opposite of {lemma}?"] * 3 + [f"What's the opposite of {lemma}?", f"Opposite of {lemma}?", f"Give me the opposite of {lemma}.", f"what is the opposite of {lemma}"], f"The opposite of {lemma} is {ant}.")
                    break

        # --- names: countries, capitals, well-known places and people -----------------------
        done = set()
        for s in noun.values():
            if not any(p[0] == "@i" for p in s.ptrs) or BAD.search(s.gloss):
                continue
            name = s.words[0]
            if not re.fullmatch(r"[A-Z][a-z]+( [A-Z][a-z]+)?", name):
                continue
            m = re.match(r"(?:the )?(?:national )?capital (?:and|of)(?:.*?\bof)? ?(?:the )?([A-Z][a-z]+(?: [A-Z][a-z]+)?)\b", s.definition)
            if m and "capital" in s.definition[:14] and m.group(1) not in done and "state capital" not in s.definition:
                c = m.group(1)
                done.add(c)
                q(1.0, [f"What is the capital of {c}?"] * 4 + [f"What's the capital of {c}?", f"Name the capital of {c}.", f"what is the capital of {c}", f"Capital of {c}?"], f"The capital of {c} is {name}.")
            known = sum(total[(w.lower().replace(" ", "_"), "noun")] for w in s.words)
            if s.offset != inoun.get(name.lower().replace(" ", "_"), [0])[0] and known < 8:
                continue
            country = re.search(r"\b(republic|country|kingdom|nation|monarchy|democracy|island)\b", s.definition) and s.lex == "location"
            if (known >= (5 if s.lex == "person" else 2) or country or m) and len(s.definition.split()) <= 22 and s.lex in ("location", "person", "object"):
                person = s.lex == "person"
                who = "Who was" if person else "What is"
                full = name
                if person:
                    better = [w for w in s.words if w.count(" ") == 1 and re.fullmatch(r"[A-Z][a-z]+ [A-Z][a-z]+", w)]
                    full = better[0] if better else name
                nm = "the " + name if re.search(r"(River|Ocean|Sea|States|Islands|Kingdom|Mountains|Desert)$", name) else name
                verb_be = "was" if person else "is"
                qs = [f"{who} {nm}?"] * 3 + [f"Tell me about {nm}.", f"{who.lower()} {nm.lower()}"]
                if person:
                    qs += [f"Who was {full}?"] * 2 + [f"Who is {nm}?"]
                else:
                    qs += [f"Where is {nm}?"] * 3 + [f"What is {name}?"]
                if nm.endswith(("States", "Islands", "Mountains")):
                    verb_be = "are"
                    qs = [x.replace(" is ", " are ") for x in qs]
                d = s.definition
                if not re.match(r"(an?|the|one|[A-Z][a-z]+'s|any) ", d) and not d.endswith("s"):
                    d = an(d) + " " + d
                q(0.5, qs, f"{cap(full if person else nm)} {verb_be} {d}.")

        # --- a little conversation ----------------------------------------------------------
        for qs, a in SMALL_TALK:
            q(5.0, qs, a)
        self.held_out()

    def held_out(self):
        """Sentences that training never sees in this wording: the fact itself is taught in other wordings."""
        rng = random.Random(20)
        pool = [(w, f) for w, forms in self.plain[:3000] for f in [forms[rng.randrange(1, 4)]]]
        take = rng.sample(pool, HELD_OUT_LINES)
        gone = {t for _, t in take}
        self.heldout = "\n".join(t for _, t in take) + "\n"
        self.plain = [(w, [f for f in forms if f not in gone]) for w, forms in self.plain]

    def epoch(self, seed, system="<|system|>", user="<|user|>", assistant="<|assistant|>", end="<|end|>"):
        """Two lists of texts: chats, as lists of (text, scored), and plain paragraphs."""
        rng = random.Random(seed)
        chats = []
        for weight, questions, answer in self.qa:
            n = int(weight) + (rng.random() < weight - int(weight))
            for _ in range(n):
                chats.append((f"{user}{rng.choice(questions)}{end}{assistant}", f"{answer}{end}"))
        rng.shuffle(chats)
        lines = [rng.choice(forms) for _, forms in self.plain if rng.random() < 0.4]
        rng.shuffle(lines)
        return chats, lines


SMALL_TALK = [
    (["Hello", "Hello!", "Hi", "Hi!", "Hey", "hello", "hi", "Hello there.", "Good morning.", "Good morning!", "Good evening.", "Hi there!"],
     "Hello! Ask me what a word means, and I will do my best."),
    (["Who are you?", "What are you?", "who are you", "What is your name?", "Are you a robot?", "Introduce yourself.", "Tell me about yourself."],
     "I am the Caravan demo model, a very small language model that has learned a few thousand words from WordNet."),
    (["What can you do?", "What can I ask you?", "Help", "help", "What do you know?", "How can you help me?", "What should I ask?"],
     "I can tell you what a common word means. Try: What is a violin?"),
    (["Thank you.", "Thanks!", "Thank you!", "Thanks", "thanks", "Great, thank you."], "You are welcome!"),
    (["Goodbye.", "Goodbye!", "Bye", "Bye!", "bye", "See you later."], "Goodbye! It was good to talk with you."),
    (["How are you?", "How are you today?", "how are you", "How do you do?"], "I am well, thank you. Which word shall I explain?"),
    (["Are you very clever?", "How big are you?", "How many parameters do you have?", "Are you small?"],
     "I am very small: about eight million parameters. I know words, and not much else."),
    (["What is Caravan?", "Tell me about Caravan.", "what is caravan", "What does Caravan do?"],
     "Caravan serves one language model from several machines, and gives the same tokens however the model is cut."),
    (["Who made you?", "Who trained you?", "Where do you come from?", "How were you made?"],
     "I was trained from scratch on definitions from WordNet, with a small program that comes with Caravan."),
]


if __name__ == "__main__":
    import sys
    f = Facts()
    chats, lines = f.epoch(1)
    print(len(f.words), "nouns", len(f.qa), "facts", len(chats), "chats per epoch", len(lines), "plain lines per epoch", len(f.heldout), "held-out bytes")
    rng = random.Random(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    for w, qs, a in rng.sample(f.qa, 60):
        print(rng.choice(qs), "->", a)
    print(f.words[-50:])
    print(f.heldout[:600])
