"""Says who takes a parcel and for how much. An app that knows neither Dodai nor Dapr: Flask, requests, a name to call."""

import os

import requests
from flask import Flask, request
from waitress import serve

app = Flask(__name__)


@app.get("/quote")
def quote():
    item = requests.get("http://stock/items", params={"name": request.args["item"]}, timeout=10).json()
    grams = item["grams"] * int(request.args["quantity"])
    return {"courier": "bicycle" if grams < 5000 else "van", "grams": grams, "cents": 300 + grams // 10}


serve(app, host="127.0.0.1", port=int(os.environ["PORT"]))
