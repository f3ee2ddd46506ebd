"""What Bochs makes of the trainer's AMX kernel.

Takes the kernel's bytes out of a program, as the compiler made them, and boots them in Bochs (3.0 or later, built
with AMX, as Debian's is) with a processor that has AMX. The sums of 32 rows and 32 columns, 96 deep, are compared
with those that the tests expect of their own emulator. Run by hand, where bochs, as, ld and objdump are:

    python tests/peers/amx_in_bochs.py target/debug/pacos
    python tests/peers/amx_in_bochs.py target/debug/pacos --share /usr/share/bochs -- /usr/bin/bochs
"""

import argparse
import hashlib
import pathlib
import re
import subprocess
import sys
import tempfile

EMULATOR = "host/engine/src/trainer/kernels/matmul_bf16/amx/emulator.rs"

# `tilezero` of four tiles: so the kernel begins.
BEGIN = bytes.fromhex("c4e27b49c0 c4e27b49c8 c4e27b49d0 c4e27b49d8")

STEPS = 3
TILE = 16 * 64
HALF = STEPS * TILE
# In memory behind the boot sector, as on the disk: panels of `a` and `b`, the configuration, code. Then the sums.
BOOT_SECTOR = 0x7C00
DATA = 0x8000
CONFIGURATION = DATA + 4 * HALF
CODE = CONFIGURATION + 64
SUMS = 0xC000

BOOT = """
.intel_syntax noprefix
.code16
  cli
  xor ax, ax
  mov ds, ax
  mov es, ax
  mov ss, ax
  mov sp, 0x7c00
  mov ah, 0x42                      # read sectors, by their number
  mov dl, 0x80
  mov si, offset sectors
  int 0x13
  mov di, 0x1000                    # one page of 2 MiB, where it is
  mov cx, 0xc00
  xor eax, eax
  cld
  rep stosd
  mov dword ptr [0x1000], 0x2003
  mov dword ptr [0x2000], 0x3003
  mov dword ptr [0x3000], 0x83
  mov eax, 0x1000
  mov cr3, eax
  mov eax, cr4
  or eax, 0x40620                   # PAE, OSFXSR, OSXMMEXCPT, OSXSAVE
  mov cr4, eax
  mov ecx, 0xc0000080               # long mode
  rdmsr
  or eax, 0x100
  wrmsr
  lgdt [descriptors]
  mov eax, cr0
  and eax, 0xfffffff3
  or eax, 0x80000003
  mov cr0, eax
  .byte 0xea
  .word long_mode, 8
.code64
long_mode:
  mov ax, 16
  mov ds, ax
  mov es, ax
  mov ss, ax
  mov rsp, 0x7c00
  xor ecx, ecx
  xor edx, edx
  mov eax, 0x600e7                  # the states up to AVX-512, and tiles
  xsetbv
  mov rbx, {CONFIGURATION}
  ldtilecfg [rbx]
  jmp kernel
.balign 4
sectors: .byte 16, 0
  .word 40, 0x7e00, 0
  .quad 1
.balign 8
table: .quad 0, 0x00209a0000000000, 0x0000920000000000
descriptors: .word 23
  .long table
.org 510
  .word 0xaa55
.org {CODE} - 0x7c00
kernel:
{registers}
  .incbin "kernel.bin"
  tilerelease
  mov rsi, {SUMS}
  mov ecx, 4096
1:
  lodsb
  mov bl, al
  shr al, 4
  call digit
  mov al, bl
  and al, 15
  call digit
  dec ecx
  jnz 1b
  mov al, 10
  out 0xe9, al
  mov dx, 0x8900                    # Bochs ends
  lea rsi, [rip + shutdown]
  mov ecx, 8
2:
  lodsb
  out dx, al
  dec ecx
  jnz 2b
3:
  hlt
  jmp 3b
digit:
  add al, 48
  cmp al, 58
  jb 4f
  add al, 39
4:
  out 0xe9, al
  ret
shutdown: .ascii "Shutdown"
"""

SETTINGS = """
megs: 32
cpu: model=sapphire_rapids
romimage: file={share}/BIOS-bochs-legacy
vgaromimage: file={share}/VGABIOS-lgpl-latest
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=disk, path=disk.img, mode=flat, cylinders=20, heads=16, spt=63
boot: disk
log: bochs.log
panic: action=fatal
port_e9_hack: enabled=1
display_library: rfb, options="timeout=0"
"""


def kernel_of(program, folder):
    """The kernel's bytes, and the registers in which it expects what."""
    image = pathlib.Path(program).read_bytes()
    begin = image.find(BEGIN)
    if begin < 0:
        sys.exit(f"{program} has no kernel of AMX: expected a program for x86-64 Linux with the trainer in it")
    (folder / "kernel.bin").write_bytes(image[begin : begin + 200])
    told = subprocess.run(
        ["objdump", "-D", "-b", "binary", "-m", "i386:x86-64", "-M", "intel", "kernel.bin"],
        cwd=folder, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    lines = re.findall(r"^ *([0-9a-f]+):\t(?:[0-9a-f]{2} )+ *\t(.*)$", told, re.M)
    found = {}
    for at, (_, text) in enumerate(lines):
        if match := re.match(r"tileloadd tmm(\d),\[(\w+)\+(\w+)\*1\]", text):
            found[match[1]], found["row"] = match[2], match[3]
        elif match := re.match(r"dec +(\w+)", text):
            found["steps"] = match[1]
        elif match := re.match(r"tilestored \[(\w+)\+(\w+)\*1.*\],tmm(\d)", text):
            found["sums"], found["sums_row"] = match[1], match[2]
            if match[3] == "3":
                end = int(lines[at + 1][0], 16)
                break
    else:
        sys.exit(f"{program}: the kernel has no end; has it changed?\n{told}")
    (folder / "kernel.bin").write_bytes(image[begin : begin + end])
    values = {
        "4": DATA, "5": DATA + HALF, "6": DATA + 2 * HALF, "7": DATA + 3 * HALF,
        "row": 64, "steps": STEPS, "sums": SUMS, "sums_row": 128,
    }  # fmt: skip
    return end, "\n".join(f"  mov {found[what]}, {value}" for what, value in values.items())


def panels():
    """The numbers of the test `sums_are_those_of_bochs`."""
    state = 1
    numbers = bytearray()
    while len(numbers) < 4 * HALF:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        random = state >> 32
        masks = {0: (0x807F, 0), 1: (0x80FF, 0x4500), 2: (0x80FF, 0x0100)}
        kept, set_ = masks.get(random >> 26, (0x81FF, 0x3F00))
        numbers += (random & kept | set_).to_bytes(2, "little")
    return numbers


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("program", help="with the trainer in it, for x86-64 Linux")
    parser.add_argument("--share", default="/usr/share/bochs", help="folder of Bochs' BIOS")
    parser.epilog = "What follows -- is how Bochs is called."
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    arguments, bochs = parser.parse_args(sys.argv[1:split]), sys.argv[split + 1 :] or ["bochs"]
    root = pathlib.Path(__file__).resolve().parents[2]
    expected = re.search(r'"([0-9a-f]{64})"', (root / EMULATOR).read_text())[1]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        size, registers = kernel_of(arguments.program, folder)
        places = {"{CONFIGURATION}": CONFIGURATION, "{CODE}": CODE, "{SUMS}": SUMS}
        source = BOOT.replace("{registers}", registers)
        for name, place in places.items():
            source = source.replace(name, str(place))
        (folder / "boot.s").write_text(source)
        for command in ("as -o boot.o boot.s", "ld -Ttext 0x7c00 -e 0x7c00 --oformat binary -o boot.bin boot.o"):
            subprocess.run(command.split(), cwd=folder, check=True)
        disk = bytearray((folder / "boot.bin").read_bytes().ljust(20 * 16 * 63 * 512, b"\0"))
        configuration = bytearray(64)
        configuration[0] = 1
        for tile in range(8):
            configuration[16 + 2 * tile], configuration[48 + tile] = 64, 16
        for place, content in [(DATA, panels()), (CONFIGURATION, configuration)]:
            begin = place - BOOT_SECTOR
            disk[begin : begin + len(content)] = content
        (folder / "disk.img").write_bytes(disk)
        (folder / "bochsrc").write_text(SETTINGS.format(share=arguments.share))
        told = subprocess.run(
            [*bochs, "-q", "-f", "bochsrc"],
            cwd=folder, capture_output=True, stdin=subprocess.DEVNULL, timeout=300,
        ).stdout.decode(errors="replace")  # fmt: skip
        sums = re.search("[0-9a-f]{8192}", told)
        if not sums:
            log = folder / "bochs.log"
            sys.exit(f"Bochs printed no sums:\n{told}\n{log.read_text()[-3000:] if log.exists() else ''}")
    got = hashlib.sha256(bytes.fromhex(sums[0])).hexdigest()
    print(f"a kernel of {size} bytes; 1,024 sums, sha256 {got}")
    if got != expected:
        sys.exit(f"the tests expect {expected}")
    print("equal to the bit to those that the tests expect")


main()
