//go:build failpoints && linux

#include "textflag.h"

// func installClock()
TEXT ·installClock(SB), NOSPLIT, $0-0
	MOVQ runtime·vdsoClockgettimeSym(SB), AX
	MOVQ AX, ·vdso(SB)
	CMPQ AX, $0
	JEQ  none
	LEAQ shifted<>(SB), AX
	MOVQ AX, runtime·vdsoClockgettimeSym(SB)

none:
	RET

// int clock_gettime(clock DI, struct timespec *SI), by the rules of C: on the stack of the thread, where Go calls the vDSO.
TEXT shifted<>(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
	PUSHQ DI
	PUSHQ SI
	SUBQ  $8, SP          // a multiple of 16
	MOVQ  ·vdso(SB), AX
	CALL  AX
	ADDQ  $8, SP
	POPQ  SI
	POPQ  DI
	CMPL  DI, $0          // CLOCK_REALTIME
	JNE   done
	MOVQ  ·offset(SB), CX
	ADDQ  CX, 0(SI)

done:
	RET
