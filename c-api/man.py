#!/usr/bin/env python3
"""Prints the manual page of the C library: what the headers say, in the order in which they say it.  man.py VERSION"""
import pathlib
import re
import sys

INCLUDE = pathlib.Path(__file__).resolve().parent / "include"
HEADERS = ["memmodel.h", "win32.h", "vgpu_perception.h", "vgpu_perception_ext.h", "vgpu_stream.h"]


def roff(text):
    """Text as troff takes it."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.M)


def prose(comment):
    """The paragraphs of a comment."""
    lines = [re.sub(r"^\s*\* ?", "", line).rstrip() for line in comment.strip("/*").splitlines()]
    paragraphs = re.split(r"\n\s*\n", "\n".join(lines).strip())
    return [roff(re.sub(r"\s+", " ", paragraph).strip()) for paragraph in paragraphs if paragraph.strip()]


def pieces(text):
    """Comments that stand at the start of a line, and the code that follows each."""
    parts = re.split(r"^(/\*.*?\*/)\s*$\n?", text, flags=re.M | re.S)
    yield "", parts[0]
    yield from zip(parts[1::2], parts[2::2])


def interesting(code):
    """The declarations of a stretch of code, without what only the compiler wants."""
    code = re.sub(r"^#(ifndef|ifdef|if|else|elif|endif|include|undef).*\n?", "", code, flags=re.M)
    code = re.sub(r'^(extern "C" \{$|\}$|VGPU_LAYOUT.*;|#define (VGPU_LAYOUT|\w+_H\b).*)\n?', "", code, flags=re.M)
    return code.strip("\n")


def main():
    version = sys.argv[1] if len(sys.argv) > 1 else ""
    print(f'.TH VGPU_PERCEPTION 3 "" "vgpu\\-perception {version}" "C library"')
    print(".SH NAME\nvgpu_perception \\- find a vgpu region in a guest's memory and read it")
    print(".SH SYNOPSIS\n.nf\n.B #include <vgpu_perception.h>\n.B #include <vgpu_perception_ext.h>")
    print(".PP\n.B cc program.c $(pkg\\-config \\-\\-cflags \\-\\-libs vgpu_perception)\n.fi")
    for header in HEADERS:
        print(f".SH {header.upper()}")
        for comment, code in pieces((INCLUDE / header).read_text()):
            section = re.fullmatch(r"/\* -+ (.*?) -+ \*/", comment)
            if section:
                print(f".SS {roff(section[1])}")
            else:
                for paragraph in prose(comment):
                    print(f".PP\n{paragraph}")
            if interesting(code):
                print(f".PP\n.in +4n\n.nf\n{roff(interesting(code))}\n.fi\n.in")
    print(".SH SEE ALSO\n.BR vgpu (1),\n.BR pkg\\-config (1)")


main()
