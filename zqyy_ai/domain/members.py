"""What the warehouse knows of one member: the nouns that `warehouse/` reads and `prompts/` write about.

Frozen values without behaviour beyond look-ups. Money is in fen, hours are in hundredths of an hour (both whole numbers, so that sums are
exact), moments are aware, dates are the site's business dates. Texts are as the till has them: untrusted, not yet bounded or masked.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta

VISIT_DAYS = 365
MOST_VISITS = 400


@dataclass(frozen=True, slots=True)
class Member:
    """A row of `ai_source.members`. None: not known; `last_visit_on` None: never came. `gender` is 男 or 女."""

    site_id: int
    member_id: int
    member_name: str
    gender: str | None
    level: str | None
    joined_on: date | None
    birthday: date | None
    balance_fen: int | None
    points: int | None
    last_visit_on: date | None


@dataclass(frozen=True, slots=True)
class VisitTable:
    """One table of a visit. `area` is a value of `windows.Area` (a measured one)."""

    table_name: str
    area: str
    started_at: datetime
    ended_at: datetime
    centihours: int
    fee_fen: int


@dataclass(frozen=True, slots=True)
class VisitAssistant:
    """An assistant's time in a visit."""

    assistant_id: int
    assistant_name: str
    centihours: int
    fee_fen: int


@dataclass(frozen=True, slots=True)
class VisitItem:
    """Something with a name and an amount: goods (with a quantity), a discount, a payment."""

    name: str
    amount_fen: int
    quantity: int | None = None


@dataclass(frozen=True, slots=True)
class Visit:
    """A settled bill of a member: a row of `ai_source.visits`."""

    visit_id: int
    business_date: date
    started_at: datetime
    ended_at: datetime
    guest_count: int | None
    gross_fen: int
    discount_fen: int
    paid_fen: int
    tables: tuple[VisitTable, ...]
    assistants: tuple[VisitAssistant, ...]
    goods: tuple[VisitItem, ...]
    discounts: tuple[VisitItem, ...]
    payments: tuple[VisitItem, ...]


@dataclass(frozen=True, slots=True)
class Assistant:
    """A row of `ai_source.assistants`."""

    assistant_id: int
    assistant_name: str
    level: str | None
    joined_on: date | None
    is_active: bool


@dataclass(frozen=True, slots=True)
class Task:
    """An open task of `ai_source.tasks`: what an assistant shall do about a member."""

    task_id: int
    assistant_id: int
    task_type: str
    title: str
    detail: str | None
    created_at: datetime
    due_on: date | None


@dataclass(frozen=True, slots=True)
class Note:
    """What somebody wrote about a member: a row of `ai_source.notes`, or the note that an event brought (`note_id` None: it named none)."""

    note_id: int | None
    content: str
    noted_by_name: str | None
    created_at: datetime | None


@dataclass(frozen=True, slots=True)
class MemberData:
    """All that the prompts of one member are made of, read in one snapshot.

    `member` is None when the warehouse does not know the id (yet). `visits` are the newest `MOST_VISITS` at most of the `VISIT_DAYS` days before
    the newest, newest first; `assistants` are those named by them and by the open tasks, by id; `open_tasks` are all, newest first.
    """

    site_id: int
    site_name: str
    member_id: int
    member: Member | None
    visits: tuple[Visit, ...]
    assistants: dict[int, Assistant]
    open_tasks: tuple[Task, ...]
    newest_note: Note | None

    def visit_range(self) -> tuple[date, date] | None:
        """First and last day that `visits` tell of: of earlier ones nothing is known here. None where the member has no visit at all."""
        if not self.visits:
            return None
        newest = self.visits[0].business_date
        is_full = len(self.visits) >= MOST_VISITS
        return self.visits[-1].business_date if is_full else newest - timedelta(days=VISIT_DAYS), newest

    def open_task_assistants(self) -> tuple[int, ...]:
        """Assistants with an open task for the member, by id: whom App4 and App5 serve outside the events' chains."""
        return tuple(sorted({task.assistant_id for task in self.open_tasks}))
