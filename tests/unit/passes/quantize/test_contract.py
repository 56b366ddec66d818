from __future__ import annotations

from typing import ClassVar

from picual.passes.quantize.autoround import AutoRound
from picual.passes.quantize.awq import Awq
from picual.passes.quantize.gptq import Gptq
from picual.passes.quantize.hqq import Hqq
from picual.passes.quantize.quantize import Quantize
from picual.passes.quantize.rtn import Rtn
from picual.testing import PassContract, tiny_model


class TestRtnContract(PassContract):
    a_pass: ClassVar = Rtn(block=16)
    a_model = staticmethod(tiny_model)


class TestGptqContract(PassContract):
    a_pass: ClassVar = Gptq(block=16, tokens=1024)
    a_model = staticmethod(tiny_model)


class TestQuantizeContract(PassContract):
    a_pass: ClassVar = Quantize(block=16, bits_per_weight=6.5)
    a_model = staticmethod(tiny_model)


class TestHqqContract(PassContract):
    a_pass: ClassVar = Hqq(block=16)
    a_model = staticmethod(tiny_model)


class TestAwqContract(PassContract):
    a_pass: ClassVar = Awq(block=16, tokens=1024)
    a_model = staticmethod(tiny_model)


class TestAutoRoundContract(PassContract):
    a_pass: ClassVar = AutoRound(block=16, tokens=1024, share=0.5, steps=5)
    a_model = staticmethod(tiny_model)
