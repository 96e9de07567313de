/*
 * tcg_fpu_insns.h: assembled instructions for test_tcg_fpu.c. Each entry: length byte, bytes, text with its zero. A list ends with length
 * 0. Memory operands are at rsi, rsi + rbx, rbp; index registers of gathers are [xyz]mm7.
 */
#ifndef HUSK_TEST_TCG_FPU_INSNS_H
#define HUSK_TEST_TCG_FPU_INSNS_H

#define LIST(name, entries) \
	extern const u8 name[]; \
	__asm__(".pushsection .rodata\n" #name ":\n" entries "\t.byte 0\n.popsection\n")
#define I(text) "\t.byte 2f-1f\n1:\t" text "\n2:\t.asciz \"" text "\"\n"

/* clang-format off */
LIST(insns_x87,
	I("fld1") I("fldpi") I("fldz") I("fld %st(3)") I("fxch %st(2)") I("fadd %st(1), %st") I("faddp") I("fmul %st, %st(2)") I("fdivrp")
	I("fsqrt") I("fsin") I("fpatan") I("f2xm1") I("frndint") I("fscale") I("fprem") I("fchs") I("fabs") I("ftst") I("fxam") I("fcom %st(1)")
	I("fcomi %st(1), %st") I("fucomip %st(2), %st") I("fcmovb %st(1), %st") I("fcmovne %st(2), %st") I("fcmovu %st(3), %st")
	I("fcmovnbe %st(1), %st") I("fninit") I("fnclex") I("fnstsw %ax") I("fincstp") I("fdecstp") I("ffree %st(1)") I("ffreep %st(1)") I("fnop")
	I("fcompp") I("fstp %st(2)")
	I("flds (%rsi)") I("fldl (%rsi)") I("fldt (%rsi)") I("fildl (%rsi)") I("fildll 8(%rsi,%rbx,2)") I("filds (%rbp)") I("fbld (%rsi)")
	I("fsts (%rsi)") I("fstpl (%rsi)") I("fstpt (%rsi)") I("fistl (%rsi)") I("fistpll (%rsi)") I("fistps (%rsi)") I("fisttpll (%rsi)") I("fbstp (%rsi)")
	I("fadds (%rsi)") I("fmull (%rsi)") I("fidivl (%rsi)") I("ficoms (%rsi)") I("fsubrl (%rsi)") I("fnstcw (%rsi)") I("fnstsw (%rsi)") I("fwait"));

LIST(insns_mmx,
	I("paddb %mm1, %mm2") I("pmaddwd %mm3, %mm4") I("psllq $5, %mm6") I("pshufw $0x1b, %mm1, %mm2") I("movq %mm1, %rdi") I("movd %r9d, %mm2")
	I("movd (%rsi), %mm2") I("movq (%rsi), %mm3") I("movq %mm3, (%rsi)") I("movd %mm3, (%rsi)") I("punpcklbw (%rsi), %mm0") I("pmovmskb %mm2, %r10d")
	I("pextrw $2, %mm3, %ebp") I("pinsrw $1, %r11d, %mm4") I("pinsrw $3, (%rsi), %mm4") I("movntq %mm1, (%rsi)") I("pshufb (%rsi), %mm1") I("pabsd %mm3, %mm1")
	I("palignr $3, %mm1, %mm2") I("movq2dq %mm1, %xmm9") I("movdq2q %xmm9, %mm4") I("cvtpi2ps (%rsi), %xmm1") I("cvtps2pi %xmm3, %mm2")
	I("cvttpd2pi (%rsi), %mm2") I("psadbw %mm1, %mm5") I("maskmovq %mm1, %mm2") I("emms"));

LIST(insns_sse,
	I("addps %xmm1, %xmm2") I("mulpd (%rsi), %xmm10") I("divss (%rsi), %xmm3") I("sqrtsd %xmm1, %xmm3") I("movaps (%rsi), %xmm1") I("movaps %xmm1, (%rsi)")
	I("movups (%rsi,%rbx), %xmm12") I("movups %xmm12, (%rsi)") I("movdqu 3(%rsi), %xmm3") I("movdqa %xmm9, (%rsi)") I("movntdq %xmm9, (%rsi)")
	I("movntps %xmm1, (%rsi)") I("movlps (%rsi), %xmm1") I("movhpd %xmm1, (%rsi)") I("movss (%rsi), %xmm8") I("movss %xmm8, (%rbp)") I("movsd %xmm8, (%rsi)")
	I("movd %xmm1, %edi") I("movq %xmm9, %r13") I("movq %rdi, %xmm9") I("movd %eax, %xmm1") I("movq (%rsi), %xmm2") I("movq %xmm2, (%rsi)")
	I("movmskps %xmm3, %r9d") I("pmovmskb %xmm13, %edi") I("cvtsi2sd %r12, %xmm1") I("cvtsi2ss %edi, %xmm9") I("cvtsi2sdq (%rsi), %xmm1")
	I("cvttsd2si %xmm1, %rdi") I("cvtss2si (%rsi), %r8d") I("cvtsd2si %xmm4, %eax") I("cvtdq2pd (%rsi), %xmm1") I("cvtps2pd %xmm1, %xmm2") I("cvtpd2ps (%rsi), %xmm2")
	I("comiss %xmm1, %xmm2") I("ucomisd (%rsi), %xmm2") I("cmpps $3, (%rsi), %xmm2") I("cmpsd $1, %xmm1, %xmm2") I("shufps $0x4e, (%rsi), %xmm2") I("unpckhpd %xmm1, %xmm2")
	I("pshufd $0x1b, (%rsi), %xmm2") I("paddd (%rsi), %xmm2") I("psrldq $3, %xmm11") I("pslld (%rsi), %xmm1") I("pextrw $3, %xmm1, %edi") I("pinsrw $3, %edi, %xmm9")
	I("maxss (%rsi), %xmm2") I("rsqrtps %xmm1, %xmm2") I("rcpss (%rsi), %xmm2") I("andnps %xmm1, %xmm2") I("addsubps (%rsi), %xmm2") I("haddpd %xmm1, %xmm2")
	I("movddup (%rsi), %xmm2") I("lddqu (%rsi), %xmm2") I("movshdup (%rsi), %xmm2") I("pshufb (%rsi), %xmm2") I("palignr $5, (%rsi), %xmm12") I("pabsb %xmm1, %xmm2")
	I("blendvps %xmm0, (%rsi), %xmm2") I("pblendvb %xmm0, %xmm3, %xmm2") I("ptest (%rsi), %xmm2") I("roundsd $2, (%rsi), %xmm2") I("dpps $0xf1, (%rsi), %xmm2")
	I("pmovzxbq (%rsi), %xmm2") I("pmovsxwd (%rsi), %xmm2") I("pextrb $3, %xmm1, (%rsi)") I("pextrb $3, %xmm1, %edi") I("pextrq $1, %xmm1, %rdi") I("pextrd $1, %xmm1, (%rsi)")
	I("pinsrb $3, (%rsi), %xmm2") I("pinsrq $1, %r14, %xmm12") I("extractps $2, %xmm1, %ebp") I("insertps $0x10, (%rsi), %xmm2") I("mpsadbw $3, (%rsi), %xmm2") I("packusdw (%rsi), %xmm2")
	I("movntdqa (%rsi), %xmm2") I("phminposuw (%rsi), %xmm2") I("pcmpestri $0x0c, (%rsi), %xmm2") I("pcmpestrm $0x40, %xmm1, %xmm2") I("pcmpistri $0x18, (%rsi), %xmm2")
	I("pcmpistrm $0x05, %xmm3, %xmm2") I("pcmpgtq (%rsi), %xmm2") I("aesenc (%rsi), %xmm2") I("aeskeygenassist $3, %xmm1, %xmm2") I("aesimc (%rsi), %xmm2")
	I("pclmulqdq $0x11, (%rsi), %xmm2") I("sha256rnds2 %xmm0, (%rsi), %xmm2") I("sha1rnds4 $2, %xmm1, %xmm2") I("gf2p8affineqb $3, (%rsi), %xmm2") I("gf2p8mulb %xmm1, %xmm2")
	I("maskmovdqu %xmm1, %xmm2") I("ldmxcsr (%rsi)") I("stmxcsr (%rsi)"));

LIST(insns_avx,
	I("vaddps %xmm1, %xmm2, %xmm3") I("vaddpd (%rsi), %ymm12, %ymm3") I("vmovaps (%rsi), %ymm1") I("vmovaps %ymm1, (%rsi)") I("vmovups %ymm9, (%rsi)") I("vmovdqu (%rsi), %ymm9")
	I("vmovntdq %ymm1, (%rsi)") I("vmovd %xmm9, %edi") I("vmovq %r13, %xmm9") I("vmovq %xmm1, %rdi") I("vpinsrq $1, %rdi, %xmm1, %xmm12") I("vpextrw $3, %xmm1, %r13d") I("vpinsrd $1, (%rsi), %xmm1, %xmm12")
	I("vcvtsi2sd %rdi, %xmm1, %xmm9") I("vcvttsd2si (%rsi), %rdi") I("vcvtss2si %xmm1, %r14") I("vmovmskpd %ymm1, %r9d") I("vpmovmskb %ymm11, %edi") I("vucomisd (%rsi), %xmm1") I("vptest (%rsi), %ymm1")
	I("vtestps %ymm1, %ymm2") I("vblendvpd %ymm1, (%rsi), %ymm2, %ymm13") I("vpblendvb %xmm11, %xmm1, %xmm2, %xmm3") I("vbroadcastss (%rsi), %ymm1") I("vbroadcastf128 (%rsi), %ymm1")
	I("vinsertf128 $1, (%rsi), %ymm2, %ymm3") I("vextractf128 $1, %ymm2, (%rsi)") I("vperm2f128 $0x21, (%rsi), %ymm2, %ymm3") I("vzeroupper") I("vzeroall") I("vpaddq (%rsi), %ymm1, %ymm2")
	I("vpermq $0x1b, (%rsi), %ymm2") I("vpermd (%rsi), %ymm1, %ymm2") I("vpsllvd (%rsi), %ymm1, %ymm2") I("vpbroadcastb (%rsi), %ymm2") I("vfmadd231pd (%rsi), %ymm1, %ymm2") I("vfnmsub132ss (%rsi), %xmm1, %xmm2")
	I("vcvtph2ps (%rsi), %ymm2") I("vcvtps2ph $0, %ymm2, (%rsi)") I("vaesenc (%rsi), %ymm1, %ymm2") I("vpclmulqdq $1, (%rsi), %ymm1, %ymm2") I("vmovlps (%rsi), %xmm1, %xmm2") I("vpcmpestri $0x0c, (%rsi), %xmm2")
	I("vldmxcsr (%rsi)") I("vstmxcsr (%rsi)") I("vpalignr $3, (%rsi), %ymm1, %ymm2") I("{vex} vpdpbusd (%rsi), %ymm1, %ymm2") I("vroundps $1, (%rsi), %ymm2") I("vmovntdqa (%rsi), %ymm2") I("vlddqu (%rsi), %ymm2"));

LIST(insns_masked,
	I("vmaskmovps (%rsi), %ymm1, %ymm2") I("vmaskmovpd %xmm1, %xmm2, (%rsi)") I("vpmaskmovd %ymm1, %ymm2, (%rsi)") I("vpmaskmovq (%rsi), %xmm1, %xmm2") I("vmaskmovdqu %xmm1, %xmm2")
	I("vmovdqu8 (%rsi), %zmm1{%k1}{z}") I("vmovdqu16 %zmm1, (%rsi){%k2}") I("vmovdqu32 %ymm17, (%rsi){%k3}") I("vmovdqu64 (%rsi), %xmm17{%k4}") I("vmovaps (%rsi), %zmm3{%k5}") I("vmovapd %zmm3, (%rsi){%k6}")
	I("vaddps (%rsi), %zmm2, %zmm30{%k7}") I("vaddpd (%rsi){1to8}, %zmm2, %zmm30{%k1}{z}") I("vaddss (%rsi), %xmm2, %xmm3{%k2}") I("vpmovzxbd (%rsi), %zmm2{%k3}") I("vpmovdb %zmm2, (%rsi){%k4}") I("vpmovsqw %ymm2, (%rsi){%k4}")
	I("vcvtps2pd (%rsi), %zmm1{%k5}") I("vcvtpd2ps (%rsi), %ymm1{%k5}") I("vcvtps2ph $0, %zmm2, (%rsi){%k6}") I("vpcompressd %zmm2, (%rsi){%k7}") I("vpexpandq (%rsi), %zmm2{%k1}") I("vcompresspd %ymm2, (%rsi){%k1}")
	I("vpcompressb %zmm2, (%rsi){%k2}") I("vpexpandw (%rsi), %zmm2{%k2}{z}") I("vpcmpeqb (%rsi), %ymm2, %k3{%k4}") I("vcmpps $1, (%rsi), %zmm2, %k3{%k4}") I("vbroadcastss (%rsi), %zmm2{%k5}") I("vbroadcasti32x4 (%rsi), %zmm2{%k5}")
	I("vpermi2d (%rsi), %zmm1, %zmm2{%k6}") I("vmovss (%rsi), %xmm2{%k1}") I("vmovsd %xmm2, (%rsi){%k1}") I("vextracti32x4 $2, %zmm2, (%rsi){%k2}") I("vpmadd52luq (%rsi), %zmm1, %zmm2{%k3}") I("vfpclassps $3, (%rsi){1to16}, %k2{%k1}"));

LIST(insns_evex,
	I("vaddps %zmm1, %zmm2, %zmm3{%k1}") I("vaddpd {rn-sae}, %zmm1, %zmm2, %zmm30") I("vmulps (%rsi), %zmm20, %zmm30") I("vmovups 64(%rsi), %zmm30") I("vmovdqu64 %zmm31, (%rsi)") I("vmovdqa32 (%rsi), %zmm1")
	I("vmovdqa64 %zmm1, (%rsi)") I("vpaddd (%rsi){1to16}, %zmm1, %zmm2") I("vpternlogq $0x96, (%rsi), %zmm1, %zmm2") I("vpbroadcastd %edi, %zmm17{%k2}") I("vpbroadcastq %r13, %zmm17") I("vpbroadcastb %ebp, %ymm17")
	I("vmovq %xmm17, %rdi") I("vmovd %r9d, %xmm30") I("vpinsrw $3, %edi, %xmm17, %xmm18") I("vpextrq $1, %xmm17, %r15") I("vcvtusi2sd %rdi, %xmm1, %xmm17") I("vcvttsd2usi %xmm17, %rdi") I("vcvtsd2usi (%rsi), %r9d")
	I("kmovq %k1, %rdi") I("kmovd %r9d, %k3") I("kmovw (%rsi), %k3") I("kmovq %k5, (%rsi)") I("kandq %k1, %k2, %k3") I("kortestw %k1, %k2") I("ktestd %k3, %k4") I("kshiftlq $3, %k1, %k2") I("kunpckdq %k1, %k2, %k3")
	I("vpmovm2b %k1, %zmm17") I("vpmovq2m %zmm17, %k2") I("vcmpps $2, %zmm1, %zmm2, %k3{%k4}") I("vptestmd (%rsi), %zmm17, %k1") I("vpcompressd %zmm1, %zmm2{%k3}{z}") I("vpexpandb %zmm1, %zmm2{%k3}")
	I("vpermb (%rsi), %zmm1, %zmm2") I("vpermt2ps %zmm1, %zmm2, %zmm3") I("vpmultishiftqb (%rsi), %zmm1, %zmm2") I("vpopcntq (%rsi), %zmm2") I("vpshldvd (%rsi), %zmm1, %zmm2") I("vpdpbusd (%rsi), %zmm1, %zmm2")
	I("vpconflictd (%rsi), %zmm2") I("vplzcntq (%rsi), %zmm2") I("vrcp14ps (%rsi), %zmm2") I("vgetexppd (%rsi), %zmm2") I("vreduceps $3, (%rsi), %zmm2") I("vrangepd $2, (%rsi), %zmm1, %zmm2") I("vdbpsadbw $2, (%rsi), %zmm1, %zmm2")
	I("vdpbf16ps (%rsi), %zmm1, %zmm2") I("vaddph (%rsi), %zmm1, %zmm2") I("vcvtsi2sh %rdi, %xmm1, %xmm2") I("vaesenclast (%rsi), %zmm1, %zmm2") I("vucomiss (%rsi), %xmm17") I("vmovlhps %xmm17, %xmm18, %xmm19") I("valignq $3, (%rsi), %zmm1, %zmm2"));

LIST(insns_gather32,
	I("vpgatherdd %ymm1, 8(%rsi,%ymm7,4), %ymm2") I("vpgatherdd %xmm1, (%rsi,%xmm7,1), %xmm2") I("vpgatherdq %ymm1, (%rsi,%xmm7,4), %ymm12") I("vgatherdps %xmm11, (%rsi,%xmm7,2), %xmm2") I("vgatherdpd %xmm1, (%rsi,%xmm7,2), %xmm2")
	I("vpgatherdd (%rsi,%zmm7,4), %zmm2{%k1}") I("vpgatherdq 16(%rsi,%ymm7,4), %zmm22{%k2}") I("vgatherdps (%rsi,%ymm7,4), %ymm2{%k3}") I("vgatherdpd (%rsi,%xmm7,2), %xmm2{%k4}")
	I("vpscatterdd %zmm2, (%rsi,%zmm7,4){%k1}") I("vpscatterdq %zmm22, 16(%rsi,%ymm7,4){%k2}") I("vscatterdps %xmm2, (%rsi,%xmm7,1){%k3}") I("vscatterdpd %ymm2, (%rsi,%xmm7,2){%k4}"));

LIST(insns_gather64,
	I("vpgatherqd %xmm1, 8(%rsi,%ymm7,4), %xmm2") I("vpgatherqd %xmm1, (%rsi,%xmm7,1), %xmm2") I("vpgatherqq %ymm1, (%rsi,%ymm7,4), %ymm12") I("vgatherqps %xmm11, (%rsi,%ymm7,2), %xmm2") I("vgatherqpd %xmm1, (%rsi,%xmm7,2), %xmm2")
	I("vpgatherqd (%rsi,%zmm7,4), %ymm2{%k1}") I("vpgatherqq 16(%rsi,%zmm7,4), %zmm22{%k2}") I("vgatherqps (%rsi,%ymm7,4), %xmm2{%k3}") I("vgatherqps (%rsi,%xmm7,4), %xmm2{%k3}") I("vgatherqpd (%rsi,%xmm7,2), %xmm2{%k4}")
	I("vpscatterqd %ymm2, (%rsi,%zmm7,4){%k1}") I("vpscatterqq %zmm22, 16(%rsi,%zmm7,4){%k2}") I("vscatterqps %xmm2, (%rsi,%ymm7,1){%k3}") I("vscatterqpd %xmm2, (%rsi,%xmm7,2){%k4}"));

LIST(insns_area,
	I("fxsave (%rsi)") I("fxsave64 (%rsi)") I("xsave (%rsi)") I("xsave64 (%rsi)") I("xsaveopt (%rsi)") I("xsavec (%rsi)") I("xsavec64 (%rsi)"));
/* clang-format on */

#endif
