"""The filters for both architectures, run in an interpreter of the kernel's language (BPF)."""

import struct

import pytest

from phi1_nb.limits import ARCHITECTURES, allow_list, call_numbers, only_self

ALLOW, REFUSE, NO_SUCH_CALL, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
PID, OTHER = 4711, 4712


def decision(code: list, machine: str, number: int, *arguments: int) -> int:
    "What a filter answers to a system call, instruction by instruction."
    values = [*arguments, *[0] * (6 - len(arguments))]
    call = struct.pack("<IIQ6Q", number, ARCHITECTURES[machine][0], 0, *values)
    at, value = 0, 0
    while True:
        op, if_true, if_false, operand = code[at]
        assert 0 <= if_true < 256 and 0 <= if_false < 256
        at += 1
        if op == 0x20:
            (value,) = struct.unpack_from("<I", call, operand)
        elif op == 0x54:
            value &= operand
        elif op == 0x06:
            return operand
        else:
            test = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}
            at += if_true if test[op] else if_false


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_the_allow_list_allows_its_calls_and_no_other(machine):
    code, numbers = allow_list(machine), call_numbers(machine)
    assert len(code) < 4096
    for number in range(600):
        wanted = ALLOW if number in numbers.values() else REFUSE
        wanted = NO_SUCH_CALL if number == 435 else wanted
        assert decision(code, machine, number) == wanted, number


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_another_architecture_s_calls_kill(machine):
    other = next(name for name in ARCHITECTURES if name != machine)
    assert decision(allow_list(machine), other, call_numbers(other)["read"]) == KILL
    assert decision(allow_list(machine), machine, 0x40000000) == KILL


@pytest.mark.parametrize("machine", ARCHITECTURES)
@pytest.mark.parametrize(
    "name, arguments, wanted",
    [
        ("kill", (PID, 9), ALLOW),
        ("kill", (OTHER, 9), REFUSE),
        ("tgkill", (OTHER, OTHER, 9), REFUSE),
        ("kill", (PID, 19), REFUSE),  # SIGSTOP
        ("clone", (0x10000,), ALLOW),  # a thread
        ("clone", (0x11,), REFUSE),  # a process
        ("read", (0,), ALLOW),
    ],
)
def test_a_process_reaches_only_itself(machine, name, arguments, wanted):
    code, number = only_self(machine, PID), call_numbers(machine)[name]
    assert decision(code, machine, number, *arguments) == wanted
