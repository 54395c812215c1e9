"""A finished run as one HTML file that opens offline and can be mailed.

    subject  ---->  page  ---->  page.html, style.css
    (reads)          |
                     +-- journal   curves and fates over steps     charts    numbers to SVG
                     +-- likeness  nearest shots, variety          pictures  tensors to data URIs
                     +-- words     sentences, durations, settings

Nothing in the file asks for anything outside of it: no script, and a policy that forbids the browser any request.
"""

from tenshot.report.page import write_and_tell as write_and_tell
from tenshot.report.page import write_report as write_report
from tenshot.report.words import KeyNumber as KeyNumber
