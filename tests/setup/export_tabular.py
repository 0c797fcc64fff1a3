"""Trains small models on made-up tables and exports each with its own library: export_tabular.py FOLDER"""

import pathlib
import sys
import warnings

import lightgbm
import numpy as np
import onnxmltools
from onnxmltools.convert.common.data_types import FloatTensorType as OnnxmltoolsFloats
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

# The newest that all three libraries write.
OPSETS = {"": 17, "ai.onnx.ml": 3}
CITIES = np.array(["Oslo", "Bergen", "Tromsø"])

warnings.filterwarnings("ignore")
folder = pathlib.Path(sys.argv[1])
random = np.random.default_rng(0)


def save(name: str, model) -> None:
    (folder / f"{name}.onnx").write_bytes(model.SerializeToString())


# Customers who leave: a column of strings and two of numbers.
city, age, months = random.choice(CITIES, 400), random.uniform(18, 90, 400), random.uniform(0, 60, 400)
left = (city == "Oslo") * 20 + months + random.normal(0, 10, 400) < 30
table = np.array([*zip(city, age, months)], dtype=object)
churn = make_pipeline(
    ColumnTransformer([("city", OneHotEncoder(handle_unknown="ignore"), [0]), ("numbers", StandardScaler(), [1, 2])]),
    LogisticRegression(),
).fit(table, left.astype(np.int64))
columns = [("city", StringTensorType([None, 1])), ("age", FloatTensorType([None, 1])), ("months", FloatTensorType([None, 1]))]
save("churn_zipmap", to_onnx(churn, initial_types=columns, target_opset=OPSETS))
save("churn", to_onnx(churn, initial_types=columns, target_opset=OPSETS, options={"zipmap": False}))

# Four numbers, three classes, and a price.
measured = random.normal(0, 1, (400, 4)).astype(np.float32)
kind = (measured @ random.normal(0, 1, (4, 3))).argmax(1)
price = measured[:, 0] * measured[:, 1] + measured[:, 2]
forest = RandomForestRegressor(n_estimators=20, max_depth=6, random_state=0).fit(measured, price)
save("forest", to_onnx(forest, measured[:1], target_opset=OPSETS))
booster = lightgbm.LGBMClassifier(n_estimators=20, max_depth=4, num_threads=1, verbose=-1, random_state=0).fit(measured, kind)
for name, zipmap in (("lightgbm_zipmap", True), ("lightgbm", False)):
    types = [("input", OnnxmltoolsFloats([None, 4]))]
    save(name, onnxmltools.convert_lightgbm(booster, initial_types=types, target_opset=15, zipmap=zipmap))
