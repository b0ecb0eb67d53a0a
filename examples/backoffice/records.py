"""What the tools return: plain records, and the few types of arguments that are more than a word."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from handrail.tool import Money

MAX_TEXT = 10_000
MAX_LISTED = 100

Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
Line = Annotated[str, Field(min_length=1, max_length=300)]
Day = Annotated[
    str,
    Field(
        pattern=r"^\d{4}-\d{2}-\d{2}$",
        description="a date: 2026-03-04",
        json_schema_extra={"format": "date"},
    ),
]
Moment = Annotated[
    str,
    Field(
        pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}$",
        description="a local time: 2026-03-04T10:00",
        json_schema_extra={"format": "date-time-local"},
    ),
]
OrderStatus = Literal["unpaid", "paid", "shipped", "delivered", "cancelled"]
TicketStatus = Literal["open", "waiting", "escalated", "closed"]
Priority = Literal["low", "normal", "high"]
Role = Literal["support", "warehouse", "finance", "engineering"]
Queue = Literal["payables", "purchasing", "finance_lead"]
NoteStatus = Literal["written", "retracted"]
DraftStatus = Literal["written", "discarded"]
ReservationStatus = Literal["reserved", "released"]
SlotStatus = Literal["booked", "cancelled"]
EmployeeStatus = Literal["employed", "withdrawn"]
TaskStatus = Literal["open", "done", "cancelled"]

# What of each record nobody but this office writes: numbers, states and dates, never words.
CUSTOMER = ("id",)
NOTE = ("id", "customer_id", "status")
ORDER = ("id", "customer_id", "status", "late", "apologised", "total", "paid", "refunded", "refundable")
ADDRESS_CHECK = ("order_id", "changeable", "same")
REFUND = ("id", "order_id", "amount", "status")
RESERVATION = ("id", "order_id", "quantity", "status")
TICKET = ("id", "customer_id", "status", "priority", "age_days", "idle_days")
INVOICE = ("id", "amount", "status", "duplicate")
SLOT = ("id", "status")
EMPLOYEE = ("id", "role", "status")
TASK = ("id", "employee_id", "status")


def of_each(name: str, fields: tuple[str, ...]) -> list[str]:
    """Return the paths to these fields of every record in a list."""
    return [f"{name}[].{field}" for field in fields]


class Record(BaseModel):
    """What all of them are: complete, and not to be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Customer(Record):
    """Somebody who buys."""

    id: int
    name: str
    email: str
    country: str
    since: str


class Customers(Record):
    """Customers that were found."""

    customers: list[Customer]


class Note(Record):
    """A note on a customer's account."""

    id: int
    customer_id: int
    text: str
    written_on: str
    status: NoteStatus


class Notes(Record):
    """The notes on an account."""

    notes: list[Note]


class OrderLine(Record):
    """So many of a product."""

    sku: str
    quantity: int


class OrderLines(Record):
    """Lines of an order."""

    order_id: int
    lines: list[OrderLine]


class Order(Record):
    """An order, with what was paid for it and what of that can still be refunded."""

    id: int
    customer_id: int
    status: OrderStatus
    address: str
    placed_on: str
    promised_on: str
    late: bool
    apologised: bool
    lines: list[OrderLine]
    total: Money
    paid: Money
    refunded: Money
    refundable: Money


class Orders(Record):
    """Orders that were found."""

    orders: list[Order]


class AddressCheck(Record):
    """Whether an order can go to an address, and whether it does already."""

    order_id: int
    changeable: bool
    same: bool


class Refund(Record):
    """Money given back."""

    id: int
    order_id: int
    amount: Money
    reason: str
    status: Literal["refunded", "cancelled"]
    refunded_on: str


class Refunds(Record):
    """The refunds of an order."""

    refunds: list[Refund]


class Stock(Record):
    """How much of a product there is."""

    sku: str
    name: str
    on_hand: int
    reserved: int
    available: int


class Reservation(Record):
    """Stock put aside for an order."""

    id: int
    order_id: int
    sku: str
    quantity: int
    status: ReservationStatus


class Reservations(Record):
    """The reservations of an order."""

    reservations: list[Reservation]


class Ticket(Record):
    """Something that a customer wants."""

    id: int
    customer_id: int
    subject: str
    body: str
    status: TicketStatus
    priority: Priority
    assignee: str
    age_days: int
    idle_days: int
    resolution: str


class Tickets(Record):
    """Tickets that were found."""

    tickets: list[Ticket]


class Reply(Record):
    """An answer to a ticket."""

    id: int
    ticket_id: int
    body: str
    written_on: str


class Replies(Record):
    """The answers to a ticket."""

    replies: list[Reply]


class Draft(Record):
    """An e-mail that is written and not sent."""

    id: int
    to: str
    subject: str
    body: str
    status: DraftStatus


class Email(Record):
    """An e-mail that a provider has taken."""

    id: str
    to: str
    subject: str
    body: str
    attachment: str
    sent_on: str


class Emails(Record):
    """What was sent to somebody."""

    emails: list[Email]


class Attendee(Record):
    """Somebody who comes to a meeting."""

    email: str
    name: str


class Slot(Record):
    """A room, booked for a while."""

    id: int
    room: str
    title: str
    day: str
    starts_at: str
    ends_at: str
    status: SlotStatus
    attendees: list[Attendee]


class Slots(Record):
    """What is booked."""

    slots: list[Slot]


class MoveCheck(Record):
    """Whether a slot's room is free at another time, and whether the slot starts then already."""

    free: bool
    same: bool


class Invoice(Record):
    """What a supplier wants."""

    id: int
    supplier: str
    number: str
    amount: Money
    purchase_order: str
    received_on: str
    due_on: str
    status: Literal["received", "routed", "held", "approved"]
    queue: str
    reason: str
    duplicate: bool


class Employee(Record):
    """Somebody who works here."""

    id: int
    name: str
    email: str
    role: Role
    starts_on: str
    status: EmployeeStatus


class EmployeeSearch(Record):
    """Whether somebody works here."""

    found: bool
    employees: list[Employee]


class ChecklistItem(Record):
    """What has to be done for a new hire, by whom and until when."""

    title: str
    owner: str
    due_on: str


class Checklist(Record):
    """All that has to be done for a new hire."""

    items: list[ChecklistItem]


class Task(Record):
    """Something to do for an employee."""

    id: int
    employee_id: int
    title: str
    owner: str
    due_on: str
    status: TaskStatus


class Tasks(Record):
    """What there is to do for an employee."""

    tasks: list[Task]


class SalesReport(Record):
    """What came in within a week, and where its chart is."""

    week: str
    path: str
    sha256: str
    orders: int
    revenue: list[Money]
    summary: str


class ReportFile(Record):
    """A report as it lies on the disk."""

    week: str
    path: str
    sha256: str
    orders: int
