import json
import re
import struct
import time
import unicodedata
from collections.abc import Callable
from datetime import date, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zqyy_ai.domain.personal_numbers import INVISIBLE, mask_personal_numbers, mask_personal_numbers_in_json
from zqyy_ai_tests.machine_speed import slowness

# A text, and what is left of it.
MASKED = """
张三 13800138000|张三 [手机号]
138 0013 8000 约晚场|[手机号] 约晚场
138-0013-8000|[手机号]
138.0013.8000|[手机号]
138·0013·8000|[手机号]
138_0013_8000|[手机号]
138*0013*8000|[手机号]
138~0013~8000|[手机号]
138 - 0013 - 8000|[手机号]
138 0013-8000|[手机号]
138—0013—8000|[手机号]
138–0013–8000|[手机号]
138　0013　8000|[手机号]
1380 013 8000|[手机号]
138 001 38000|[手机号]
138 00138000|[手机号]
1380013 8000|[手机号]
138 00 13 80 00|[手机号]
1 3 8 0 0 1 3 8 0 0 0|[手机号]
1-3-8-0-0-1-3-8-0-0-0|[手机号]
１３８００１３８０００|[手机号]
１３８－００１３－８０００|[手机号]
138００１３8000|[手机号]
+8613800138000|[手机号]
+86 138 0013 8000|[手机号]
＋86-138-0013-8000|[手机号]
008613800138000|[手机号]
0086 138 0013 8000|[手机号]
8613800138000|[手机号]
86-13800138000|[手机号]
(+86)13800138000|[手机号]
（86）138 0013 8000|[手机号]
013800138000|[手机号]
138(0013)8000|[手机号]
一三八零零一三八零零零|[手机号]
一三八〇〇一三八〇〇〇|[手机号]
幺三八零零幺三八零零零|[手机号]
壹叁捌零零壹叁捌零零零|[手机号]
一 三 八 零 零 一 三 八 零 零 零|[手机号]
一三八-零零一三-八零零零|[手机号]
1三8零零1三8零零零|[手机号]
幺三八00138000|[手机号]
138零零一三八000|[手机号]
①③⑧⓪⓪①③⑧⓪⓪⓪|[手机号]
𝟏𝟑𝟖𝟎𝟎𝟏𝟑𝟖𝟎𝟎𝟎|[手机号]
١٣٨٠٠١٣٨٠٠٠|[手机号]
¹³⁸⁰⁰¹³⁸⁰⁰⁰|[手机号]
1️⃣3️⃣8️⃣0️⃣0️⃣1️⃣3️⃣8️⃣0️⃣0️⃣0️⃣|[手机号]
1\u200b3\u200b8\u200b0\u200b0\u200b1\u200b3\u200b8\u200b0\u200b0\u200b0|[手机号]
138\u200d0013\ufeff8000|[手机号]
\u202e13800138000\u202c|\u202e[手机号]
138\u00ad0013\u20608000|[手机号]
1\u03363\u03368\u03360\u03360\u03361\u03363\u03368\u03360\u03360\u03360\u0336|[手机号]
电话13800138000一直打不通|电话[手机号]一直打不通
①13800138000 ②13900139000|①[手机号] ②[手机号]
1️⃣13800138000|1️⃣[手机号]
1.13800138000 2.13900139000|1.[手机号] 2.[手机号]
三13800138000|三[手机号]
13800138000/13900139000|[手机号]/[手机号]
13800138000,13900139000|[手机号],[手机号]
13800138000 13900139000|[手机号] [手机号]
他13800138000他|他[手机号]他
NO13800138000|NO[手机号]
2026-04-20 13800138000 19:30|2026-04-20 [手机号] 19:30
余额12800，手机19912345678，A12号台|余额12800，手机[手机号]，A12号台
手机 13 80 01 38 00 0|手机 [手机号]
电话：62345678|电话：[电话号码]
电话 6234 5678|电话 [电话号码]
座机是6234567|座机是[电话号码]
Tel: 6234-5678|Tel: [电话号码]
电话 62345678 2026-04-20|电话 [电话号码] 2026-04-20
010-62345678|[电话号码]
010 6234 5678|[电话号码]
(0755)26345678|[电话号码]
0755-2634-5678|[电话号码]
075526345678|[电话号码]
021-6234567|[电话号码]
0755-26345678转801|[电话号码]
0755-26345678-801|[电话号码]
零七五五二六三四五六七八|[电话号码]
零一零-六二三四五六七八|[电话号码]
+86 10 6234 5678|[电话号码]
0086-755-2634 5678|[电话号码]
+86-0755-26345678|[电话号码]
+852 9123 4567|[电话号码]
+1 415 555 26710|[电话号码]
400-810-6666|[电话号码]
400 8106 666|[电话号码]
4008106666|[电话号码]
800-810-6666|[电话号码]
四零零-八一零-六六六六|[电话号码]
110101199003076717|[身份证号]
11010119900307671X|[身份证号]
11010119900307671x一张|[身份证号]一张
11010119900307671Ｘ|[身份证号]
110101 19900307 6717|[身份证号]
110101-1990-0307-6717|[身份证号]
110 101 1990 0307 671X|[身份证号]
1 1 0 1 0 1 1 9 9 0 0 3 0 7 6 7 1 7|[身份证号]
１１０１０１１９９００３０７６７１７|[身份证号]
一一零一零一一九九零零三零七六七一七|[身份证号]
壹壹零壹零壹壹玖玖零零叁零柒陆柒壹X|[身份证号]
110101900307671|[身份证号]
身份证 110101 900307 671|身份证 [身份证号]
身份证号：110101199913456717|身份证号：[身份证号]
6222021234567890|[银行卡号]
6222021234567890123|[银行卡号]
6222 0212 3456 7890|[银行卡号]
5100 0000 0000 0008|[银行卡号]
6222 0212 3456 7890 123|[银行卡号]
6222-0212-3456-7890-123|[银行卡号]
622202 1234567890123|[银行卡号]
4111 1111 1111 1111|[银行卡号]
5555-5555-5555-4444|[银行卡号]
3782 822463 10005|[银行卡号]
378282246310005|[银行卡号]
4222222222222|[银行卡号]
６２２２０２１２３４５６７８９０|[银行卡号]
六二二二零二一二三四五六七八九零|[银行卡号]
6 2 2 2 0 2 1 2 3 4 5 6 7 8 9 0|[银行卡号]
6222\u200b0212\u200b3456\u200b7890|[银行卡号]
建行 4367 4212 3456 7890 尾款|建行 [银行卡号] 尾款
卡号：4000 1234 5678 9012|卡号：[银行卡号]
微信号lily_8888|微信号[微信号]
微信：lily_8888，常来|微信：[微信号]，常来
加微信 zhang-san66|加微信 [微信号]
微信号是：Zhang_San66|微信号是：[微信号]
微 信 lilywang|微 信 [微信号]
薇信lily8888|薇信[微信号]
V信 lily8888|V信 [微信号]
v信：lily8888|v信：[微信号]
VX:lily8888|VX:[微信号]
vx lily8888|vx [微信号]
ＶＸ：ｌｉｌｙ８８８８|ＶＸ：[微信号]
WX=lily8888|WX=[微信号]
wx号：lily8888|wx号：[微信号]
加V lily8888|加V [微信号]
加v13800138000|加v[微信号]
WeChat: lily8888|WeChat: [微信号]
wechat id lily8888|wechat id [微信号]
weixin：lily8888|weixin：[微信号]
微：lily8888|微：[微信号]
微信同号13800138000|微信同号[微信号]
微信就是手机13800138000|微信就是手机[手机号]
微信“lily8888”|微信“[微信号]”
微信li\u200bly8888|微信[微信号]
他的号 wxid_abc123def456|他的号 [微信号]
QQ 123456789|QQ [QQ号]
QQ：12345|QQ：[QQ号]
qq号123-456-789|qq号[QQ号]
Q Q 一二三四五六七八|Q Q [QQ号]
扣扣 123456789|扣扣 [QQ号]
q:123456789|q:[QQ号]
QQ群 987654321|QQ群 [QQ号]
123456789@qq.com|[QQ号]@qq.com
么三八零零么三八零零零|[手机号]
么三八00138000|[手机号]
怎么一三八零零一三八零零零|怎么[手机号]
138:0013:8000|[手机号]
138：0013：8000|[手机号]
138|0013|8000|[手机号]
138+0013+8000|[手机号]
138/0013/8000|[手机号]
138，0013，8000|[手机号]
1/3/8/0/0/1/3/8/0/0/0|[手机号]
1-380-0138-000|[手机号]
1-3800-138000|[手机号]
1 3800138000|[手机号]
13-8001-38000|[手机号]
138 0 0 1 3 8 0 0 0|[手机号]
138 0013 8000 2026-04-20|[手机号] 2026-04-20
138 0013 8000人不错|[手机号]人不错
138 1234 8000 2026-04-20|[手机号] 2026-04-20
13800138000-1930|[手机号]-1930
138 0013 8000-1930|[手机号]-1930
138 0013 8000年卡|[手机号]年卡
138 0013 8000分享|[手机号]分享
400 810 6666|[电话号码]
622202 1234 5678 90123|[银行卡号]
62220 21234 56789 0123|[银行卡号]
622202123456 7890|[银行卡号]
622202-123456-7890|[银行卡号]
622 202 123 456 7894|[银行卡号]
41111 11111 111111|[银行卡号]
110101 20050307 6717|[身份证号]
138\u28000013\u28008000|[手机号]
微信👉lily8888|微信👉[微信号]
微信➡️lily8888|微信➡️[微信号]
微信→lily8888|微信→[微信号]
微信名lily8888|微信名[微信号]
微信昵称：lily8888|微信昵称：[微信号]
微信叫做lily8888|微信叫做[微信号]
微信@lily8888|微信@[微信号]
微信手机同号13800138000|微信手机同号[手机号]
微信/lily8888|微信/[微信号]
VX号→lily8888|VX号→[微信号]
v信是lily8888|v信是[微信号]
V lily8888|V [微信号]
V@lilywang|V@[微信号]
V➕lily8888|V➕[微信号]
绿泡泡lily8888|绿泡泡[微信号]
卫星：lily8888|卫星：[微信号]
"""

STAYS = """
¥1,288.00
￥1,288.00
¥ 12,800.50
3880元
12800
储值3880送588
充5000送1288元
1288.00元
188、1288、3880、12800
188，1288，3880
188,1288,3880
138/1288/3880
套餐价138、1288、3880
68元/小时，88元/小时，128元/小时
¥188.00 ¥288.00 ¥388.00
188.00 288.00 388.00 488.00
1,380,013,800.00
实付 12,880.00 元，优惠 1,120.00 元
充1000+1288+3880
1288+3880=5168
支付宝 500元、微信 3880元
微信支付188.00元
微信支付 12800 元
微信收款12800
微信 1288000元
微信好友200人
微信扫码88元，现金100元
微信群里说周六来
微信同手机
QQ音乐会员
QQ群里的朋友
QQ 12800元
加V8包厢
V8号台
VIP888包厢
2026-04-20
2026/04/20
2026.04.20
20260420
2026年4月20日
2026-04-20 19:30:00
2026-04-20T19:30:00+08:00
2026-04-20 19:30-21:45
19:30-21:45
19：30～21：45
20260420193000
20260420-20260520
20260420 20260421
2026.04.20-2026.05.20
2026-04-20至2026-05-20
2026-04-20 2026-05-20
2026-04-20~2026-05-20
04-20 19:30
4/20 19:30-23:00
1月3日、1月8日、1月13日
电话：2026-04-20 回访
电话 2026-04-20 19:30 打过，没接
电话20260420回访
微信2026-04-20加的
2023 2024 2025 2026
二零二六年四月
二〇二六年四月二十日
二零二六零四二零
A12号台
12号桌
8号球房
A12、A13、B08、B09
A12号台 2026-04-20 19:30-21:45 2.25小时 ¥153.00
15-13 12-15 15-9
15:13，12:15，15:9
15-13-12-15
比分 7-5，7-6，9-7
147分，单杆破百138次
单杆 138、137、136、135
三个小时
一百二十
一百二十三万四千五百六十七元
一千二百八十八元
三五个人
一五一十
三七二十一
一三五七九号台
二三十次
五一、十一都来
85%
85.5%，比上月+12.3%
1.5小时、2.25小时、3小时
138小时
共 138 次，1288 分钟
153000分
1280000分
金额 138001380 分
消费1380013元
到店15次 18次 20次 16次
每月 15 18 20 22 25 28
积分13800
会员 12345678
会员号 1000012345
单号 2026042000017
订单20260420001
订单 12345678901
小票号 000123456789
1776672000000
1234567890
0.138
3.1415926535
手机支付 1288 元
手机壳88元
电话费100元
电话打了3次，7次没接
身份证没带
卡号尾号8888
身高185，体重75
400元
400-500元
800~1000元
+8.5%
+1288
生日 1990-03-07
19900307
10:00-12:00 13:00-15:00 19:30-23:30
0930-2130
第3局 8比7
138****8000
[手机号] [电话号码] [身份证号] [银行卡号] [微信号] [QQ号]
消费<100元 & 3>2
周一至周五1300-1800 128元,周末1930-2130 168元
台费168 20260420
A158 1930-2130
A158 1930-2130 20260420
早场0930-2130 1288元
早场0930-2130 1288
积分+100 2026-04-20
充值+1000 2026-04-20到账
余额+1288.00 2026-04-20
充值+500 1930-2130
充值档 400 800 1200
充值档 800 1000 1200
储值 +100 200 300 400
3880 5880 6880 9880
128800 2026-04-20 1930
128800 20260420 1930
2026-04-20 1910-1230 128
来电话，1930-2130到店
已加微信，1930-2130来
加QQ，1930-2130在线
138 1288 3880元
138 1288 2026-04-20
138 1288 2026年4月20日
138 1288 1930-2130
138/1288/3880
138+1288+3880
138/0930/2130
微信 12880.00
微信|12880.00|现金
微信/支付宝/现金
怎么380 1280 3880
那么580 1280 880
V reception
"""


def lines_of(corpus: str) -> list[str]:
    """The corpus writes invisible characters as escapes, so that a reader sees them."""
    return [re.sub(r"\\u([0-9a-f]{4})", lambda escape: chr(int(escape[1], 16)), line) for line in corpus.strip().splitlines()]


@pytest.mark.parametrize("line", lines_of(MASKED))
def test_a_personal_number_is_replaced_by_what_it_was(line: str) -> None:
    given_text, left = line.rsplit("|", maxsplit=1)
    assert mask_personal_numbers(given_text) == left


@pytest.mark.parametrize("text", lines_of(STAYS))
def test_what_is_no_personal_number_stays_byte_for_byte(text: str) -> None:
    assert mask_personal_numbers(text) == text
    assert mask_personal_numbers(f"老板说{text}，下次再来") == f"老板说{text}，下次再来"


# No digits, no words that introduce an id, and nothing that a number or an id could go on with.
CHINESE = st.text(alphabet="张李会员常来打球周末晚上喜欢安静包厢朋友带小孩不爱喝酒教练夸他准头好，。！？；（）的了在有", max_size=20)
SCRIPTS = (
    "0123456789",
    "０１２３４５６７８９",
    "零一二三四五六七八九",
    "〇一二三四五六七八九",
    "零壹贰叁肆伍陆柒捌玖",
    "零幺两三四五六拐八勾",
    "⓪①②③④⑤⑥⑦⑧⑨",
    "⁰¹²³⁴⁵⁶⁷⁸⁹",
    "٠١٢٣٤٥٦٧٨٩",
    "०१२३४५६७८९",
    "𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗",
)
SEPARATORS = st.sampled_from(["", " ", "-", ".", "·", "_", "*", "~", " - ", "—", "－", "\u3000", "\u00a0"])
INVISIBLES = st.sampled_from(["", "\u200b", "\u200d", "\ufeff", "\u00ad", "\u2060", "\u0336", "\u200b\u200b"])


def digits(count: int) -> st.SearchStrategy[str]:
    return st.text(alphabet="0123456789", min_size=count, max_size=count)


def luhn_digit_of(number: str) -> str:
    doubled = sum(sum(divmod(2 * int(digit), 10)) for digit in number[::-2])
    return str(-(doubled + sum(int(digit) for digit in number[-2::-2])) % 10)


@st.composite
def written(draw: st.DrawFn, number: str, groupings: tuple[tuple[int, ...], ...]) -> str:
    """The number as somebody may write it: grouped or spelled, in one script or in several, with invisible characters in it."""
    grouping = draw(st.sampled_from(((len(number),), (1,) * len(number), *groupings)))
    separator = draw(SEPARATORS)
    invisible = draw(INVISIBLES)
    scripts = draw(st.lists(st.sampled_from(SCRIPTS), min_size=1, max_size=2))
    keycaps = draw(st.integers(0, 9)) == 0
    groups: list[str] = []
    start = 0
    for length in grouping:
        group = number[start : start + length]
        start += length
        if keycaps:
            groups.append("".join(f"{digit}\ufe0f\u20e3" if digit.isdecimal() else digit for digit in group))
        else:
            script = draw(st.sampled_from(scripts))
            groups.append(invisible.join(script[int(digit)] if digit.isdecimal() else digit for digit in group))
    return separator.join(groups)


@st.composite
def mobile_numbers(draw: st.DrawFn) -> tuple[str, str]:
    number = "1" + draw(st.sampled_from("3456789")) + draw(digits(9))
    form = draw(written(number, ((3, 4, 4), (3, 8), (7, 4), (4, 3, 4), (3, 3, 5), (3, 2, 2, 2, 2))))
    return number, draw(st.sampled_from(["", "+86", "+86 ", "86-", "0086 ", "(+86)", "＋86-", "手机", "电话：", "微信"])) + form


@st.composite
def landline_numbers(draw: st.DrawFn) -> tuple[str, str]:
    area = draw(st.sampled_from(["010", "020", "021", "028", "0755", "0371", "0991"]))
    number = area + draw(st.sampled_from("23456789")) + draw(digits(7))
    return number, draw(written(number, ((len(area), 8), (len(area), 4, 4))))


@st.composite
def id_card_numbers(draw: st.DrawFn) -> tuple[str, str]:
    born = draw(st.dates(min_value=date(1930, 1, 1), max_value=date(2015, 12, 31)))
    number = draw(st.sampled_from("123456")) + draw(digits(5)) + f"{born:%Y%m%d}" + draw(digits(3)) + draw(st.sampled_from("0123456789Xx"))
    return number, draw(written(number, ((6, 8, 4), (6, 4, 4, 4), (3, 3, 4, 4, 4))))


@st.composite
def bank_card_numbers(draw: st.DrawFn) -> tuple[str, str]:
    length = draw(st.integers(13, 19))
    number = draw(st.sampled_from(["62", "4", "51", "35", "37"]))
    number += draw(digits(length - len(number) - 1))
    number += luhn_digit_of(number)
    fours = (4,) * (length // 4) + ((length % 4,) if length % 4 else ())
    shapes = (fours,) if length >= 16 else ()
    # Spelled digit by digit, fewer than 16 digits are no card.
    return number, draw(written(number, shapes)) if length >= 16 else number


@st.composite
def wechat_ids(draw: st.DrawFn) -> tuple[str, str]:
    name = draw(st.text(alphabet="abcdefghijklmnoqrstuyz", min_size=1, max_size=1))
    name += draw(st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789_-", min_size=6, max_size=18))
    word = draw(st.sampled_from(["微信", "微信号", "微信：", "微信号是", "VX", "vx:", "WX ", "wx号", "V信", "薇信：", "加V ", "WeChat: "]))
    separator = "" if not word[-1].isascii() else " "
    full_width = "".join(chr(ord(character) + 0xFEE0) for character in name)
    return name, word + separator + draw(st.sampled_from([name, name.upper(), full_width, "\u200b".join(name)]))


def folded(text: str) -> str:
    """What a reader sees, in ASCII: an independent reading, without the module's own table."""
    plain = unicodedata.normalize("NFKC", INVISIBLE.sub("", text)).lower()
    for script in SCRIPTS:
        plain = plain.translate({ord(character): str(value) for value, character in enumerate(script)})
    return plain


@settings(max_examples=400, deadline=None)
@given(CHINESE, st.one_of(mobile_numbers(), landline_numbers(), id_card_numbers(), bank_card_numbers()), CHINESE)
def test_no_seven_digits_of_a_number_are_left_whatever_its_form(before: str, number: tuple[str, str], after: str) -> None:
    plain, form = number
    left = re.sub(r"[^0-9]", "", folded(mask_personal_numbers(f"{before}{form}{after}")))
    assert not [plain[start : start + 7] for start in range(len(plain) - 6) if plain[start : start + 7] in left], form


@settings(max_examples=200, deadline=None)
@given(CHINESE, wechat_ids(), CHINESE)
def test_a_wechat_id_after_its_word_is_gone_whatever_its_form(before: str, wechat_id: tuple[str, str], after: str) -> None:
    plain, form = wechat_id
    masked = mask_personal_numbers(f"{before}{form}{after}")
    assert plain not in folded(masked), form
    assert masked.startswith(before)
    assert masked.endswith(after)


PRICES = st.one_of(
    st.integers(1, 99_999).map(lambda cny: f"{cny}元"),
    st.integers(100, 9_999_999).map(lambda fen: f"¥{fen / 100:,.2f}"),
    st.integers(100, 99_999_999).map(lambda fen: f"{fen}分"),
    st.lists(st.integers(18, 12_800).map(str), min_size=2, max_size=6).map("、".join),
)
EARLIEST, LATEST = datetime.fromisoformat("2019-01-01"), datetime.fromisoformat("2029-12-31")
MOMENTS = st.datetimes(min_value=EARLIEST, max_value=LATEST).flatmap(
    lambda moment: st.sampled_from(
        [
            "%Y-%m-%d",
            "%Y%m%d",
            "%Y年%m月%d日",
            "%Y/%m/%d",
            "%Y.%m.%d",
            "%Y-%m-%d %H:%M-%H:%M",
            "%m-%d %H:%M",
            "%H:%M:%S",
            "%Y-%m-%dT%H:%M:%S",
        ]
    ).map(moment.strftime)
)
TABLES = st.tuples(st.sampled_from(["A", "B", "C", "VIP", ""]), st.integers(1, 888), st.sampled_from(["号台", "号桌", "号球房"])).map(
    lambda parts: "".join(map(str, parts))
)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(PRICES, MOMENTS, TABLES), min_size=1, max_size=6), st.lists(CHINESE.filter(bool), min_size=7, max_size=7))
def test_prices_dates_and_table_numbers_stay_between_chinese_words(quantities: list[str], words: list[str]) -> None:
    text = "".join(f"{word}{quantity}" for word, quantity in zip(words, quantities, strict=False)) + words[-1]
    assert mask_personal_numbers(text) == text


AMOUNTS = st.integers(18, 12_800)
CLOCKS = st.tuples(st.integers(9, 24), st.sampled_from([0, 15, 30, 45])).map(lambda time: f"{time[0]:02}{time[1]:02}")
HOURS = st.tuples(CLOCKS, st.sampled_from("-~～"), CLOCKS).map("".join)
COUNTED = st.one_of(MOMENTS, HOURS)
# Several bare amounts in a row may read like a mobile number, which goes first; one has a date or opening hours beside it.
TIMETABLES = st.one_of(
    TABLES,
    COUNTED,
    AMOUNTS.map(lambda cny: f"{cny}元"),
    AMOUNTS.map(lambda cny: f"¥{cny:,}.00"),
    st.tuples(st.sampled_from(["", "+", "A", "VIP"]), AMOUNTS, COUNTED).map(lambda parts: f"{parts[0]}{parts[1]} {parts[2]}"),
    st.tuples(HOURS, AMOUNTS).map(lambda parts: f"{parts[0]} {parts[1]}元"),
)


@settings(max_examples=1000, deadline=None)
@given(st.lists(TIMETABLES, min_size=1, max_size=6), CHINESE, CHINESE)
def test_prices_dates_opening_hours_and_table_numbers_stay_with_only_spaces_between_them(
    pieces: list[str], before: str, after: str
) -> None:
    text = before + " ".join(pieces) + after
    assert mask_personal_numbers(text) == text


def escaped(character: str) -> str:
    """As JSON may write it."""
    return "".join(
        f"\\u{unit:04x}" for unit in struct.unpack(f">{len(character.encode('utf-16-be')) // 2}H", character.encode("utf-16-be"))
    )


@settings(max_examples=400, deadline=None)
@given(
    CHINESE,
    st.one_of(mobile_numbers(), id_card_numbers(), bank_card_numbers(), wechat_ids()),
    st.sampled_from(["", "\n", "\t", "\b"]),
    st.data(),
)
def test_json_holds_no_number_that_reading_it_would_show(before: str, number: tuple[str, str], between: str, data: st.DataObject) -> None:
    plain, form = number
    if plain.isdecimal():
        form = data.draw(st.sampled_from([form, between.join((plain[:3], plain[3:7], plain[7:]))])) if len(plain) == 11 else form
    text = f"{before}{form}，2026-04-20 ¥1,288.00"
    written_text = json.dumps({"a": [text]}, ensure_ascii=data.draw(st.booleans()))
    if data.draw(st.booleans()):
        written_text = written_text.replace(json.dumps(text, ensure_ascii=False)[1:-1], "".join(map(escaped, text)))
    masked = mask_personal_numbers_in_json(written_text)
    [read] = json.loads(masked)["a"]
    assert plain not in re.sub(r"[^0-9a-z_-]", "", folded(read)), written_text
    assert read.startswith(before.rstrip("（"))
    assert read.endswith("，2026-04-20 ¥1,288.00")
    assert mask_personal_numbers_in_json(masked) == masked


@pytest.mark.parametrize(
    ("written_text", "left"),
    [
        (r'{"a": "138\n0013\n8000\n"}', r'{"a": "[手机号]\n"}'),
        (r'{"a": "微信\nlily8888"}', r'{"a": "微信\n[微信号]"}'),
        (r'{"a": "\u0031\u0033800138000"}', r'{"a": "[手机号]"}'),
        (r'{"a": "\ud835\udfcf38\u200b00138000"}', r'{"a": "[手机号]"}'),
        (r'{"a": "{\"b\": \"138\\n0013\\n8000\"}"}', r'{"a": "{\"b\": \"[手机号]\"}"}'),
        (r'{"a": "¥1,288.00\n2026-04-20 \u2713 C:\\d"}', r'{"a": "¥1,288.00\n2026-04-20 \u2713 C:\\d"}'),
        ("138\n0013\n8000", "[手机号]"),
    ],
)
def test_escapes_are_read_and_stay_as_they_are_written(written_text: str, left: str) -> None:
    assert mask_personal_numbers_in_json(written_text) == left


ANYTHING = st.one_of(
    st.text(max_size=60),
    st.lists(
        st.sampled_from(
            [
                *"0123456789一三八零-. (+）：x①",
                "138",
                "13800138000",
                "86",
                "微信",
                "号",
                "QQ",
                "wx",
                "wxid_",
                "abc123",
                "电话",
                "卡号",
                "6222",
                "\u200b",
                "\ue001",
                "[手机号]",
            ]
        ),
        max_size=40,
    ).map("".join),
)


@settings(max_examples=500, deadline=None)
@given(ANYTHING)
def test_masking_twice_is_masking_once(text: str) -> None:
    once = mask_personal_numbers(text)
    assert mask_personal_numbers(once) == once


@settings(max_examples=200, deadline=None)
@given(ANYTHING)
def test_what_is_not_replaced_is_the_text_itself(text: str) -> None:
    kept = re.split(r"\[(?:手机|电话|身份证|银行卡|微信|QQ)号码?\]", mask_personal_numbers(text))
    place = 0
    for part in kept:
        place = text.index(part, place) + len(part)


def test_a_note_of_ordinary_length_takes_less_than_a_millisecond() -> None:
    """On a machine of the usual speed."""
    note = "张先生周末常来A12号台打中八，2026-04-20 19:30-21:45 消费¥1,288.00，储值3880元，余额12800，手机13800138000，" * 40
    before, seconds = slowness(), fastest_seconds(note[:2000])
    assert seconds < 0.001 * max(before, slowness())


@pytest.mark.parametrize(
    "unit",
    [
        "1",
        "13",
        "1 3",
        "138 ",
        "6222 ",
        "10 ",
        "0",
        "一",
        "一三",
        "1\u200b",
        "微信",
        "微信号是",
        "加v",
        "q ",
        "电话 ",
        "身份证1 ",
        "+",
        "(",
        "a_",
        "wxid_",
        "12 3456 ",
        "么",
        "1/",
        "62 ",
        "v ",
        "微信@",
        "\\",
        "\\u0031",
        "1930-",
        "100 ",
    ],
)
def test_time_grows_with_the_length_whatever_the_text(unit: str) -> None:
    """Two hundred thousand characters of the worst kind: a quadratic search would take minutes."""
    assert fastest_seconds((unit * 200_000)[:200_000], tries=1, mask=mask_personal_numbers_in_json) < 3


def fastest_seconds(text: str, tries: int = 20, mask: Callable[[str], str] = mask_personal_numbers) -> float:
    fastest = float("inf")
    for _ in range(tries):
        started = time.process_time()
        mask(text)
        fastest = min(fastest, time.process_time() - started)
    return fastest
