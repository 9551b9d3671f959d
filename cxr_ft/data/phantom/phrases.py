"""The sentences of the reports, by label. {size}, {side}, {place}, {mm}, {lung} are filled in from the sign.

POSITIVE is for the findings, BRIEF for the impression, UNSURE in both. ABSENT names what a report can deny.
"""

SIZES = {
    "Cardiomegaly": ("mild", "moderate", "severe"),
    "Edema": ("mild", "moderate", "severe"),
    "Pleural Effusion": ("small", "moderate", "large"),
    "Pneumothorax": ("small", "moderate", "large"),
    "Atelectasis": ("mild", "moderate", "marked"),
    "Enlarged Cardiomediastinum": ("mild", "moderate", "marked"),
}

# No sentence may hold the words of another label, or the report would state more than the tables; a test reads them.
# "Opacity" may stand in those of its children. Sentences without it get one of Lung Opacity's.
POSITIVE = {
    "Cardiomegaly": (
        "There is {size} cardiomegaly.",
        "The cardiac silhouette is enlarged, {size} in degree.",
        "Heart size is enlarged, consistent with {size} cardiomegaly.",
    ),
    "Enlarged Cardiomediastinum": (
        "The mediastinum is widened.",
        "There is {size} widening of the mediastinum.",
        "The upper mediastinal contour is enlarged.",
    ),
    "Edema": (
        "There is {size} pulmonary edema with perihilar opacities.",
        "Perihilar haze, vascular indistinctness and interstitial opacities reflect {size} pulmonary edema.",
        "Bilateral opacities and septal lines are consistent with {size} interstitial edema.",
    ),
    "Pleural Effusion": (
        "There is a {size} {side} pleural effusion.",
        "Blunting of the {side} costophrenic angle reflects a {size} pleural effusion.",
        "A {size} {side} pleural effusion is present.",
    ),
    "Pneumothorax": (
        "There is a {size} {side} pneumothorax.",
        "A {side} pleural line is seen, consistent with a {size} pneumothorax.",
        "A {size} {side} pneumothorax is present.",
    ),
    "lobar": (
        "There is dense consolidation in the {place}.",
        "A confluent opacity in the {place} with air bronchograms represents consolidation.",
        "Focal consolidation is present in the {place}.",
    ),
    "patchy": (
        "Patchy consolidation is present in the {place}.",
        "Patchy opacities in the {place} represent consolidation.",
        "There is multifocal consolidation in the {place}.",
    ),
    "Pneumonia": (
        "The appearance is consistent with pneumonia.",
        "Findings are compatible with pneumonia.",
        "This reflects pneumonia in the proper clinical setting.",
    ),
    "Atelectasis": (
        "There is {size} {lung} basilar atelectasis.",
        "Linear opacities at the {lung} base reflect {size} atelectasis.",
        "Bandlike {lung} basal atelectasis is present with slight volume loss.",
    ),
    "Lung Lesion": (
        "A {mm} mm nodule projects over the {place}.",
        "There is a rounded {mm} mm nodular opacity in the {place}.",
        "A well-defined nodule of {mm} mm is seen in the {place}.",
    ),
    "Lung Opacity": ("Parenchymal opacity is seen as described.", "Corresponding lung opacity is present."),
    "Fracture": (
        "There is a displaced {side} rib fracture.",
        "A fracture of a {side} rib is noted.",
        "Cortical step-off of a {side} rib is consistent with a fracture.",
    ),
    "lateral": (
        "There is {side} pleural thickening along the lateral chest wall.",
        "{side} lateral pleural thickening is seen.",
    ),
    "apical": ("There is {side} apical pleural thickening.", "{side} apical pleural scarring is noted."),
}

# Each holds a word of doubt that labelers know: possible, may, cannot be excluded.
UNSURE = {
    "Cardiomegaly": ("Possible mild cardiomegaly.", "The cardiac silhouette may be borderline enlarged."),
    "Enlarged Cardiomediastinum": ("The mediastinum may be slightly widened.", "Possible mediastinal widening."),
    "Edema": ("Possible mild pulmonary edema.", "Slight vascular indistinctness may represent early edema."),
    "Pleural Effusion": (
        "A trace {side} pleural effusion cannot be excluded.",
        "Possible tiny {side} pleural effusion.",
    ),
    "Pneumothorax": ("A tiny {side} pneumothorax cannot be excluded.", "Possible tiny {side} pneumothorax."),
    "lobar": (
        "Faint opacity in the {place} may represent consolidation.",
        "Possible early consolidation in the {place}.",
    ),
    "patchy": (
        "Subtle patchy opacity in the {place} may represent consolidation.",
        "Possible consolidation in the {place}.",
    ),
    "Pneumonia": ("Pneumonia cannot be excluded.", "This may represent early pneumonia."),
    "Atelectasis": (
        "Possible minor {lung} basilar atelectasis.",
        "Slight {lung} basal opacity may represent atelectasis.",
    ),
    "Lung Lesion": (
        "Possible small nodule in the {place}.",
        "A subtle nodular opacity in the {place} may represent a nodule.",
    ),
    "Lung Opacity": ("Possible subtle opacity, as described.",),
    "Fracture": ("A nondisplaced {side} rib fracture cannot be excluded.", "Possible {side} rib fracture."),
    "lateral": ("Possible slight {side} pleural thickening.",),
    "apical": ("Possible slight {side} apical pleural thickening.",),
}

BRIEF = {
    "Cardiomegaly": ("{size} cardiomegaly.",),
    "Enlarged Cardiomediastinum": ("Widened mediastinum.",),
    "Edema": ("{size} pulmonary edema.",),
    "Pleural Effusion": ("{size} {side} pleural effusion.",),
    "Pneumothorax": ("{size} {side} pneumothorax.",),
    "lobar": ("Consolidation in the {place}.", "Opacity in the {place}, consistent with consolidation."),
    "patchy": ("Patchy consolidation in the {place}.",),
    "Pneumonia": ("Pneumonia.", "Findings consistent with pneumonia."),
    "Atelectasis": ("{lung} basilar atelectasis.",),
    "Lung Lesion": (
        "{mm} mm nodule in the {place}. CT is recommended.",
        "Nodule in the {place}, for which CT is suggested.",
    ),
    "Fracture": ("{side} rib fracture.",),
    "lateral": ("{side} pleural thickening.",),
    "apical": ("{side} apical pleural thickening.",),
}

# Everybody has a heart and a mediastinum: these are called normal, while other findings are denied.
NORMAL = {
    "Cardiomegaly": (
        "Heart size is normal.",
        "The cardiac silhouette is normal in size.",
        "The heart is not enlarged.",
    ),
    "Enlarged Cardiomediastinum": ("The mediastinal contours are normal.", "The mediastinum is not widened."),
}
ABSENT = {
    "Edema": ("pulmonary edema", "evidence of pulmonary edema"),
    "Pleural Effusion": ("pleural effusion",),
    "Pneumothorax": ("pneumothorax",),
    "Consolidation": ("focal consolidation", "consolidation"),
    "Pneumonia": ("evidence of pneumonia", "pneumonia"),
    "Atelectasis": ("atelectasis",),
    "Lung Lesion": ("suspicious nodule", "pulmonary nodule or mass"),
    "Lung Opacity": ("parenchymal opacity", "focal lung opacity"),
    "Fracture": ("acute fracture", "displaced rib fracture"),
    "Pleural Other": ("pleural thickening",),
    "Support Devices": ("indwelling line or tube",),
}
DENIALS = ("There is no {}.", "No {}.", "No {} is seen.", "No {} is identified.")

DEVICES = {
    "endotracheal tube": (
        "The endotracheal tube terminates {cm} cm above the carina.",
        "Endotracheal tube in standard position.",
    ),
    "central venous line": (
        "A {side} central venous catheter terminates in the SVC.",
        "{side} central line with tip in the SVC.",
    ),
    "PICC line": (
        "A {side} PICC line ends in the low SVC.",
        "{side} PICC catheter terminates at the cavoatrial junction.",
    ),
    "enteric tube": ("An enteric tube courses below the diaphragm.", "The feeding tube ends in the stomach."),
    "pacemaker": (
        "A {side} chest wall pacemaker with leads is in place.",
        "{side}-sided pacer leads are unchanged in course.",
    ),
    "chest tube": ("A {side} chest tube is in place.", "The {side} chest tube tip projects over the apex."),
    "sternal wires": ("Median sternotomy wires are intact.", "Sternal wires are aligned."),
}
BRIEF_DEVICES = ("Lines and tubes as described.", "Support devices in standard position.")

CLEAR = ("The lungs are clear.", "The lungs are well expanded and clear.", "Lungs are fully expanded.")
# On what none of the 14 labels stands for, so that labels stay as they are.
FILLER = (
    "The visualized upper abdomen is unremarkable.",
    "Hilar contours are unremarkable.",
    "Degenerative changes are noted in the spine.",
    "No free air is seen below the diaphragm.",
)
NOTHING = (
    "No acute cardiopulmonary process.",
    "No acute cardiopulmonary abnormality.",
    "No acute intrathoracic process.",
    "Normal chest radiograph.",
)

COMPLAINTS = (
    "cough and fever", "shortness of breath", "chest pain", "altered mental status", "status post fall", "hypoxia",
    "leukocytosis", "preoperative evaluation", "dyspnea on exertion", "weakness", "recent surgery", "syncope",
)  # fmt: skip
# An indication names findings that need not be there: text and labels are taken from other sections.
QUESTIONS = (
    "eval for pneumonia", "evaluate for effusion", "r/o acute process", "please assess interval change",
    "eval for edema", "assess line placement", "infiltrate?", "pneumothorax?",
)  # fmt: skip
TRENDS = {
    "same": ("unchanged", "stable", "similar"),
    "more": ("increased", "worsened"),
    "less": ("decreased", "improved"),
}
