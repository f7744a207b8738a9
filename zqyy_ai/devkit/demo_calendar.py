"""China's public holidays, near enough for demo data: when the halls are full, and when nobody comes. Pure; holds until 2030."""

from datetime import date

# First day of the lunar year, dragon boat and mid-autumn festival; years not listed have the fixed holidays only.
_LUNAR_HOLIDAYS = {
    2022: ((2, 1), (6, 3), (9, 10)),
    2023: ((1, 22), (6, 22), (9, 29)),
    2024: ((2, 10), (6, 10), (9, 17)),
    2025: ((1, 29), (5, 31), (10, 6)),
    2026: ((2, 17), (6, 19), (9, 25)),
    2027: ((2, 6), (6, 9), (9, 15)),
    2028: ((1, 26), (5, 28), (10, 3)),
    2029: ((2, 13), (6, 16), (9, 22)),
    2030: ((2, 3), (6, 5), (9, 12)),
}


def is_public_holiday(day: date) -> bool:
    """Whether the day is one of China's public holidays, near enough: exchanged working days are left out."""
    if (day.month, day.day) in ((1, 1), (4, 4), (4, 5), (4, 6)) or (day.month == 5 and day.day <= 5) or (day.month == 10 and day.day <= 7):
        return True
    if day.year not in _LUNAR_HOLIDAYS:
        return False
    new_year, dragon_boat, mid_autumn = (date(day.year, month, first) for month, first in _LUNAR_HOLIDAYS[day.year])
    return -1 <= (day - new_year).days <= 6 or 0 <= (day - dragon_boat).days <= 2 or 0 <= (day - mid_autumn).days <= 2


def is_lunar_new_year(day: date) -> bool:
    """The eve and the first day of the lunar year: the halls open late, for few guests."""
    return day.year in _LUNAR_HOLIDAYS and -1 <= (day - date(day.year, *_LUNAR_HOLIDAYS[day.year][0])).days <= 0
