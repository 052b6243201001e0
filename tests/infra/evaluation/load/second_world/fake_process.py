"""A simulator of the same protocol whose truth is plain: user u clicks product u mod P, every time, and nothing else.

Each user views the own product twice and product 0 once, is shown three products, and views product 1 before the last.
"""

import json
import sys


def turn(user: int, products: int, shown: int, product: int | None) -> dict[str, object]:
    own = user % products
    views = {0: [(0, own), (1, own), (2, 0)], 2: [(5, 1)]}.get(shown, [])
    hit = product == own
    return {
        "views": views,
        "step": (3, 4, 6, 7)[shown],
        "done": shown == 3,
        "clicked": hit,
        "probability": 1.0 if hit else 0.0,
        "best": own,
        "best_probability": 1.0,
    }


if __name__ == "__main__":
    products, users = int(sys.argv[1]), dict[int, int]()
    sys.stdout.write(json.dumps({"products": products}) + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        asked = json.loads(line)
        user = asked["user"]
        users[user] = users[user] + 1 if "product" in asked else 0
        sys.stdout.write(json.dumps(turn(user, products, users[user], asked.get("product"))) + "\n")
        sys.stdout.flush()
