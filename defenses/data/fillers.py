"""What fills a template's slots: private values drawn for one user, and words that hint at one of its attributes.

A hint is drawn from the words of the user's own class, from words that all classes share, or now and then from those
of another class. So an attribute can be learnt from the prompts, but never with certainty.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from faker import Faker

OWN, SHARED = 0.84, 0.10  # the rest is drawn from another class

TASKS: Mapping[str, tuple[str, ...]] = {
    "gender": ("female", "male"),
    "age_band": ("18-29", "30-54", "55+"),
    "sector": ("health", "finance", "education", "technology", "retail"),
    "diagnosis_group": ("heart", "metabolic", "mental health", "respiratory", "joints"),
}

AGES = {"18-29": (18, 30), "30-54": (30, 55), "55+": (55, 86)}


@dataclass(frozen=True)
class Hint:
    """A slot whose words depend on one attribute.

    Attributes:
        task: The attribute.
        entity: Entity type of its spans.
        words: Words of each class.
        shared: Words that every class uses.
    """

    task: str
    entity: str
    words: Mapping[str, tuple[str, ...]]
    shared: tuple[str, ...]

    def draw(self, label: str, rng: np.random.Generator) -> str:
        """One word for a user of class `label`."""
        coin = rng.random()
        if coin < OWN:
            return pick(self.words[label], rng)
        if coin < OWN + SHARED:
            return pick(self.shared, rng)
        return pick(self.words[pick([other for other in self.words if other != label], rng)], rng)


def pick(values: Sequence[str], rng: np.random.Generator) -> str:
    """One of the values, each as likely as the next."""
    return values[int(rng.integers(len(values)))]


DIAGNOSES: Mapping[str, tuple[str, ...]] = {
    "heart": ("atrial fibrillation", "coronary heart disease", "heart failure", "high blood pressure"),
    "metabolic": ("type 2 diabetes", "type 1 diabetes", "an underactive thyroid", "high cholesterol"),
    "mental health": ("depression", "an anxiety disorder", "burnout", "bipolar disorder"),
    "respiratory": ("asthma", "chronic bronchitis", "sleep apnoea", "COPD"),
    "joints": ("rheumatoid arthritis", "a slipped disc", "osteoarthritis of the hip", "gout"),
}

EMPLOYER_ENDINGS: Mapping[str, tuple[str, ...]] = {
    "health": ("Medical Center", "Hospital", "Care"),
    "finance": ("Bank", "Capital", "Insurance"),
    "education": ("Academy", "College", "Learning"),
    "technology": ("Software", "Systems", "Labs"),
    "retail": ("Stores", "Market", "Outfitters"),
}
PLAIN_ENDINGS = ("Group", "and Sons", "Partners", "Holding")

DESTINATIONS = (
    "Lisbon", "Kyoto", "Oslo", "Montreal", "Cape Town", "Athens", "Naples", "Reykjavik", "Santiago", "Hanoi",
    "Dublin", "Krakow", "Marrakesh", "Seville", "Tallinn", "Vienna", "Auckland", "Cusco", "Istanbul", "Honolulu",
)  # fmt: skip

HINTS: Mapping[str, Hint] = {
    "symptom": Hint(
        "diagnosis_group",
        "SYMPTOM",
        {
            "heart": ("a racing pulse", "pressure in my chest", "swollen ankles", "palpitations at night"),
            "metabolic": ("constant thirst", "tingling feet", "shaky spells before meals", "blurred eyesight"),
            "mental health": ("panic in crowds", "dark thoughts", "no joy in anything", "racing worries at night"),
            "respiratory": ("wheezing after stairs", "a dry cough", "tightness when I breathe", "loud snoring"),
            "joints": ("stiff fingers", "a sore lower back", "a swollen knee", "pain in my hip"),
        },
        ("tiredness all day", "poor sleep", "dizziness", "headaches", "no appetite", "sudden sweating"),
    ),
    "medicine": Hint(
        "diagnosis_group",
        "MEDICATION",
        {
            "heart": ("bisoprolol", "ramipril", "warfarin", "amlodipine"),
            "metabolic": ("metformin", "insulin", "levothyroxine", "atorvastatin"),
            "mental health": ("sertraline", "lithium", "mirtazapine", "escitalopram"),
            "respiratory": ("salbutamol", "a cortisone inhaler", "montelukast", "tiotropium"),
            "joints": ("methotrexate", "diclofenac", "allopurinol", "naproxen"),
        },
        ("ibuprofen", "vitamin D", "a new tablet", "iron drops", "paracetamol"),
    ),
    "specialist": Hint(
        "diagnosis_group",
        "SPECIALIST",
        {
            "heart": ("the cardiology clinic", "the heart centre"),
            "metabolic": ("the diabetes clinic", "the hormone clinic"),
            "mental health": ("the psychiatrist", "the therapy centre"),
            "respiratory": ("the lung clinic", "the sleep laboratory"),
            "joints": ("the rheumatology clinic", "the orthopaedic surgeon"),
        },
        ("my family doctor", "the walk-in centre", "the outpatient clinic", "the practice nurse"),
    ),
    "role": Hint(
        "sector",
        "OCCUPATION",
        {
            "health": ("a ward nurse", "a paramedic", "a midwife", "a dental assistant"),
            "finance": ("an accountant", "a loan officer", "a tax clerk", "an auditor"),
            "education": ("a primary teacher", "a school librarian", "a lecturer", "a nursery teacher"),
            "technology": ("a software developer", "a network engineer", "a data analyst", "a system tester"),
            "retail": ("a shop manager", "a cashier", "a butcher", "a window dresser"),
        },
        ("a team lead", "an assistant", "a coordinator", "a trainee", "a deputy manager"),
    ),
    "duty": Hint(
        "sector",
        "DUTY",
        {
            "health": ("the night shift on the ward", "a double shift in surgery", "the vaccination round"),
            "finance": ("the quarterly closing", "the audit of the ledgers", "the loan interviews"),
            "education": ("marking the exam papers", "the parents' consultations", "planning the lessons"),
            "technology": ("the weekend release", "the server migration", "the on-call rota"),
            "retail": ("the stocktaking", "the sale days", "the early delivery"),
        },
        ("the long meeting", "the yearly review", "training the new staff", "the inspection", "the handover"),
    ),
    "partner": Hint(
        "gender",
        "RELATION",
        {"female": ("husband", "boyfriend", "fiancé"), "male": ("wife", "girlfriend", "fiancée")},
        ("partner", "other half", "spouse"),
    ),
    "parent_role": Hint(
        "gender", "RELATION", {"female": ("mother", "mum"), "male": ("father", "dad")}, ("parent", "guardian")
    ),
    "life_stage": Hint(
        "age_band",
        "LIFE_STAGE",
        {
            "18-29": (
                "fresh out of college",
                "still at university",
                "looking for a first flat",
                "just out of training",
            ),
            "30-54": ("busy with small children", "in mid-career", "paying off a house", "juggling work and daycare"),
            "55+": ("long retired", "close to retirement", "busy with grandchildren", "slower than I used to be"),
        },
        ("short of time", "new in town", "on a tight budget", "between two homes"),
    ),
    "age_item": Hint(
        "age_band",
        "AGE_CLUE",
        {
            "18-29": ("my student loan", "my internship pay", "my first credit card", "my semester ticket"),
            "30-54": ("my mortgage", "my daycare bill", "my company car", "my child allowance"),
            "55+": ("my pension", "my annuity", "my retirement savings", "my bus pass for seniors"),
        },
        ("my rent", "my savings", "my insurance", "my tax return"),
    ),
}

ENTITIES: Mapping[str, str] = {
    "name": "PERSON", "other": "PERSON", "doctor": "PERSON", "child": "PERSON", "city": "CITY", "destination": "CITY",
    "street": "ADDRESS", "phone": "PHONE", "email": "EMAIL", "birthdate": "DATE_OF_BIRTH", "date": "DATE",
    "age": "AGE", "employer": "EMPLOYER", "school": "SCHOOL", "diagnosis": "DIAGNOSIS", "account": "ACCOUNT",
    "card": "CARD", "amount": "AMOUNT", "policy": "POLICY", "case": "CASE", "passport": "PASSPORT",
    "flight": "FLIGHT", "booking": "BOOKING", "order": "ORDER", "username": "USERNAME",
} | {slot: hint.entity for slot, hint in HINTS.items()}  # fmt: skip

TASK_OF_SLOT: Mapping[str, str] = {slot: hint.task for slot, hint in HINTS.items()} | {
    "diagnosis": "diagnosis_group",
    "employer": "sector",
}

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip


def user_values(labels: Mapping[str, str], fake: Faker, rng: np.random.Generator) -> dict[str, str]:
    """The values that stay with one user: who, where, born when, employed by whom, ill with what."""
    first = fake.first_name_female() if labels["gender"] == "female" else fake.first_name_male()
    last = fake.last_name()
    age = int(rng.integers(*AGES[labels["age_band"]]))
    ending = pick(EMPLOYER_ENDINGS[labels["sector"]] if rng.random() < OWN else PLAIN_ENDINGS, rng)
    return {
        "name": f"{first} {last}",
        "age": str(age),
        "birthdate": f"{_day(rng)} {2025 - age}",
        "city": fake.city(),
        "street": fake.street_address(),
        "phone": f"({rng.integers(200, 990)}) 555-{rng.integers(100, 200):04d}",
        "email": f"{first}.{last}@example.org".lower(),
        "username": f"{first.lower()}{rng.integers(10, 100)}",
        "employer": f"{fake.last_name()} {ending}",
        "school": f"{fake.last_name()} School",
        "child": fake.first_name(),
        "doctor": f"Dr. {fake.last_name()}",
        "diagnosis": pick(DIAGNOSES[labels["diagnosis_group"]], rng),
        "account": _digits(10, rng),
        "card": _digits(4, rng),
        "policy": f"P-{_digits(7, rng)}",
        "passport": f"{'CFGHJK'[int(rng.integers(6))]}{_digits(8, rng)}",
    }


def prompt_values(fake: Faker, rng: np.random.Generator) -> dict[str, str]:
    """The values that belong to one prompt only."""
    return {
        "other": f"{fake.first_name()} {fake.last_name()}",
        "destination": pick(DESTINATIONS, rng),
        "date": _day(rng),
        "amount": f"${int(rng.integers(4, 400)) * 5}",
        "case": f"{_digits(2, rng)}-{_digits(5, rng)}",
        "flight": f"{pick(('AX', 'NW', 'QT', 'VB'), rng)} {_digits(3, rng)}",
        "booking": "".join(pick("ABCDEFGHJKLMNPQRSTUVWXYZ23456789", rng) for _ in range(6)),
        "order": f"#{_digits(7, rng)}",
    }


def _day(rng: np.random.Generator) -> str:
    return f"{pick(MONTHS, rng)} {rng.integers(1, 29)}"


def _digits(count: int, rng: np.random.Generator) -> str:
    return "".join(str(digit) for digit in rng.integers(0, 10, count))
