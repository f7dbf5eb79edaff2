"""Reads what ptxas said of kernels (*.log) and their machine code (*.sass), as `.ci/ptx` leaves them, and fails
where a loop that multiplies keeps registers in memory, or products run one after the other."""

import re
import sys
from pathlib import Path

sys.setrecursionlimit(100_000)


def blocks(lines):
    """Basic blocks of a kernel as nvdisasm writes it, and which follow which."""
    starts = {0} | {at for at, line in enumerate(lines) if line.startswith(".L_x_")}
    starts |= {at + 1 for at, line in enumerate(lines) if re.search(r"\b(BRA|EXIT|RET)\b", line)}
    starts = sorted(at for at in starts if at < len(lines))
    index = {at: number for number, at in enumerate(starts)}
    bodies = [lines[at:end] for at, end in zip(starts, starts[1:] + [len(lines)])]
    label = {line.rstrip(":"): at for at, line in enumerate(lines) if line.startswith(".L_x_")}
    follows = {number: set() for number in range(len(bodies))}
    for number, body in enumerate(bodies):
        jump = re.search(r"\bBRA.*`\((\.L_x_\d+)\)", body[-1])
        if jump:
            follows[number].add(index[label[jump[1]]])
        always = re.search(r"\*/\s+(BRA|EXIT|RET)\b", body[-1])
        if not always and number + 1 < len(bodies):
            follows[number].add(number + 1)
    return bodies, follows


def loops(bodies, follows, within):
    """The smallest sets of blocks of `within` that multiply and lead back to themselves."""
    order, low, stack, found = {}, {}, [], []

    def visit(one):
        order[one] = low[one] = len(order)
        stack.append(one)
        for other in follows[one] & within:
            if other not in order:
                visit(other)
                low[one] = min(low[one], low[other])
            elif other in stack:
                low[one] = min(low[one], order[other])
        if low[one] == order[one]:
            loop = set()
            while one not in loop:
                loop.add(stack.pop())
            if len(loop) > 1 or one in follows[one]:
                found.append(loop)

    for one in within:
        if one not in order:
            visit(one)
    inner = []
    for loop in found:
        if not any(re.search(r"\bHG?MMA\b", line) for one in loop for line in bodies[one]):
            continue
        # Without the jumps back to where it is entered, what loops in it are those inside.
        entries = {one for other, others in follows.items() if other not in loop for one in others & loop}
        without = {one: others - entries if one in loop else others for one, others in follows.items()}
        inner += (loops(bodies, without, loop) if entries else []) or [loop]
    return inner


failed = 0
for log in sorted(Path(sys.argv[1]).glob("*.log")):
    text = log.read_text()
    remarks = sorted(set(re.findall(r"\((C7509|C751[0-5])\)", text)))
    lines = [line.strip() for line in log.with_suffix(".sass").read_text().splitlines()]
    lines = [line for line in lines if line.startswith((".L_x_", "/*"))]
    bodies, follows = blocks(lines)
    spills = 0
    for loop in loops(bodies, follows, set(follows)):
        spills += sum(bool(re.search(r"\b(STL|LDL)\b", line)) for one in loop for line in bodies[one])
    wrong = remarks + [f"{spills} spills in a loop"] * (spills > 0)
    registers = re.search(r"Used (\d+) registers", text)[1]
    print(f"{log.stem}: {registers} registers{'; ' if wrong else ''}{', '.join(wrong)}")
    failed += bool(wrong)
sys.exit(failed > 0)
