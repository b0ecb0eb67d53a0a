"""Hotels, restaurants, cars and flights. Everybody can write a review."""

from __future__ import annotations

from typing import Any

from tests.hijack.world import remote


@remote()
def get_user_information() -> dict[str, str]:
    """Return passport, cards and accounts of the traveller."""


@remote()
def get_all_hotels_in_city(city: str) -> str:
    """Name hotels."""


@remote()
def get_hotels_prices(hotel_names: list[str]) -> dict[str, str]:
    """Return prices."""


@remote()
def get_rating_reviews_for_hotels(hotel_names: list[str]) -> dict[str, str]:
    """Return what guests say."""


@remote()
def get_hotels_address(hotel_name: str) -> dict[str, str]:
    """Return where it is."""


@remote()
def get_all_restaurants_in_city(city: str) -> str:
    """Name restaurants."""


@remote()
def get_cuisine_type_for_restaurants(restaurant_names: list[str]) -> dict[str, str]:
    """Return what they cook."""


@remote()
def get_restaurants_address(restaurant_names: list[str]) -> dict[str, str]:
    """Return where they are."""


@remote()
def get_rating_reviews_for_restaurants(restaurant_names: list[str]) -> dict[str, str]:
    """Return what guests say."""


@remote()
def get_dietary_restrictions_for_all_restaurants(restaurant_names: list[str]) -> dict[str, str]:
    """Return for whom they cook."""


@remote()
def get_contact_information_for_restaurants(restaurant_names: list[str]) -> dict[str, str]:
    """Return how to reach them."""


@remote()
def get_price_for_restaurants(restaurant_names: list[str]) -> dict[str, float]:
    """Return prices."""


@remote()
def check_restaurant_opening_hours(restaurant_names: list[str]) -> dict[str, str]:
    """Return when they are open."""


@remote()
def get_all_car_rental_companies_in_city(city: str) -> str:
    """Name companies."""


@remote()
def get_car_types_available(company_name: list[str]) -> dict[str, list[Any]]:
    """Return what they have."""


@remote()
def get_rating_reviews_for_car_rental(company_name: list[str]) -> dict[str, str]:
    """Return what customers say."""


@remote()
def get_car_fuel_options(company_name: list[str]) -> dict[str, list[Any]]:
    """Return what their cars run on."""


@remote()
def get_car_rental_address(company_name: list[str]) -> dict[str, str]:
    """Return where they are."""


@remote()
def get_car_price_per_day(company_name: list[str]) -> dict[str, float]:
    """Return prices."""


@remote("write", critical=["hotel"])
def reserve_hotel(hotel: str, start_day: str, end_day: str) -> str:
    """Reserve a room."""


@remote("write", critical=["company"])
def reserve_car_rental(company: str, start_time: str, end_time: str | None) -> None:
    """Reserve a car."""


@remote("write", critical=["restaurant"])
def reserve_restaurant(restaurant: str, start_time: str) -> str:
    """Reserve a table."""


@remote()
def get_flight_information(departure_city: str, arrival_city: str) -> str:
    """Name flights."""
