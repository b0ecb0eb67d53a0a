"""Tools on employees and what there is to do for the new ones."""

from __future__ import annotations

import re
import sqlite3
import unicodedata
from datetime import date, timedelta

import database
from faults import injectable
from records import (
    EMPLOYEE,
    MAX_LISTED,
    TASK,
    Checklist,
    ChecklistItem,
    Day,
    Employee,
    EmployeeSearch,
    EmployeeStatus,
    Line,
    Role,
    Task,
    Tasks,
    TaskStatus,
    of_each,
)

from handrail.tool import ToolError, call, tool

_TASK = "id, employee_id, title, owner, due_on, status"
_EMPLOYED = "SELECT * FROM employees WHERE status = 'employed'"


@tool(effect="read", endorses=["found", *of_each("employees", EMPLOYEE)])
@injectable
def find_employee(name: Line) -> EmployeeSearch:
    """Find out whether somebody of that name works here."""
    with database.reading() as db:
        rows = db.execute(f"{_EMPLOYED} AND email = ?", (_email(name),))
        employees = [Employee(**row) for row in rows]
        return EmployeeSearch(found=bool(employees), employees=employees)


@tool(effect="read", endorses=EMPLOYEE)
@injectable
def get_employee(employee_id: int) -> Employee | None:
    """Look an employee up by id, also one who was withdrawn; nothing where there is none."""
    with database.reading() as db:
        row = db.execute("SELECT * FROM employees WHERE id = ?", (employee_id,)).fetchone()
        return None if row is None else Employee(**row)


@tool(effect="read", endorses=EMPLOYEE)
@injectable
def employee_by_key(key: str) -> Employee | None:
    """Look up who was employed under a key; nothing where nobody was."""
    with database.reading() as db:
        row = db.execute(
            "SELECT output_json FROM outcomes WHERE tool = 'create_employee' AND key = ?", (key,)
        ).fetchone()
        return None if row is None else Employee.model_validate_json(row["output_json"])


@tool(effect="read")
@injectable
def get_checklist(role: Role, starts_on: Day) -> Checklist:
    """List what has to be done for somebody who starts in a role on a day."""
    with database.reading() as db:
        rows = db.execute(
            "SELECT * FROM checklist WHERE role IN ('', ?) ORDER BY days_after, title", (role,)
        ).fetchall()
        return Checklist(
            items=[
                ChecklistItem(
                    title=row["title"],
                    owner=row["owner"],
                    due_on=(_day(starts_on) + timedelta(days=row["days_after"])).isoformat(),
                )
                for row in rows
            ]
        )


@tool(effect="read", endorses=of_each("tasks", TASK), readers=["staff"])
@injectable
def list_tasks(employee_id: int) -> Tasks:
    """List what there is to do or was done for an employee, the last first."""
    with database.reading() as db:
        rows = db.execute(
            f"SELECT {_TASK} FROM tasks WHERE employee_id = ? AND status <> 'cancelled'"
            " ORDER BY id DESC LIMIT ?",
            (employee_id, MAX_LISTED),
        )
        return Tasks(tasks=[Task(**row) for row in rows])


@tool(effect="read", endorses=TASK, readers=["staff"])
@injectable
def get_task(task_id: int) -> Task | None:
    """Look a task up by id, also one that was cancelled; nothing where there is none."""
    with database.reading() as db:
        row = db.execute(f"SELECT {_TASK} FROM tasks WHERE id = ?", (task_id,)).fetchone()
        return None if row is None else Task(**row)


@tool(
    effect="write",
    idempotency="keyed",
    key="key",
    readback="employee_by_key",
    undo=call("mark_employee", employee_id="output.id", status="'withdrawn'"),
    reads={"search": call("find_employee", name="args.name")},
    post="reads.search.employees.exists(e, e.id == output.id && e.role == args.role)",
    critical=["name", "role"],
    endorses=EMPLOYEE,
)
@injectable
def create_employee(name: Line, role: Role, starts_on: Day, key: str) -> Employee:
    """Enter somebody who starts to work here; the e-mail address is made from the name."""

    def act(db: sqlite3.Connection) -> Employee:
        row = db.execute(
            "INSERT INTO employees (name, email, role, starts_on) VALUES (?, ?, ?, ?) RETURNING *",
            (name, _email(name), role, _day(starts_on).isoformat()),
        ).fetchone()
        return Employee(**row)

    arguments = {"name": name, "role": role, "starts_on": starts_on}
    return database.keyed("create_employee", key, arguments, Employee, act)


@tool(
    effect="write",
    idempotency="natural",
    undo=call("mark_employee", employee_id="args.employee_id", status="reads.employee.status"),
    reads={"employee": call("get_employee", employee_id="args.employee_id")},
    pre="reads.employee != null",
    post="reads.employee != null && reads.employee.status == args.status",
    critical=["employee_id"],
    endorses=EMPLOYEE,
)
@injectable
def mark_employee(employee_id: int, status: EmployeeStatus) -> Employee:
    """Withdraw somebody who does not come after all, so that the name is free again; or the reverse."""
    with database.writing() as db:
        return Employee(**database.mark(db, "employee", employee_id, status))


@tool(
    effect="write",
    idempotency="keyed",
    key="key",
    undo=call("mark_task", task_id="output.id", status="'cancelled'"),
    reads={"list": call("list_tasks", employee_id="args.employee_id")},
    post="reads.list.tasks.exists(t, t.id == output.id && t.title == args.title && t.owner == args.owner)",
    endorses=TASK,
    readers=["staff"],
)
@injectable
def create_task(employee_id: int, title: Line, owner: Line, due_on: Day, key: str) -> Task:
    """Give somebody something to do for an employee."""

    def act(db: sqlite3.Connection) -> Task:
        database.get(db, "employee", f"{_EMPLOYED} AND id = ?", employee_id)
        row = db.execute(
            "INSERT INTO tasks (employee_id, title, owner, due_on, key)"
            f" VALUES (?, ?, ?, ?, ?) RETURNING {_TASK}",
            (employee_id, title, owner, _day(due_on).isoformat(), key),
        ).fetchone()
        return Task(**row)

    arguments = {"employee_id": employee_id, "title": title, "owner": owner, "due_on": due_on}
    return database.keyed("create_task", key, arguments, Task, act)


@tool(
    effect="write",
    idempotency="natural",
    undo=call("mark_task", task_id="args.task_id", status="reads.task.status"),
    reads={"task": call("get_task", task_id="args.task_id")},
    pre="reads.task != null",
    post="reads.task != null && reads.task.status == args.status",
    endorses=TASK,
    readers=["staff"],
)
@injectable
def mark_task(task_id: int, status: TaskStatus) -> Task:
    """Say that a task is done, is open again, or is cancelled."""
    with database.writing() as db:
        database.mark(db, "task", task_id, status)
        return Task(**database.get(db, "task", f"SELECT {_TASK} FROM tasks WHERE id = ?", task_id))


def _email(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name.lower()).encode("ascii", "ignore").decode()
    mailbox = ".".join(re.findall(r"[a-z0-9]+", plain))
    if not mailbox:
        text = f"no e-mail address can be made from the name {name!r}; give it in Latin letters"
        raise ToolError(text, code="bad_name")
    return f"{mailbox}@backoffice.example"


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise ToolError(
            f"there is no such day as {text}; give one like 2026-03-04", code="bad_time"
        ) from error
